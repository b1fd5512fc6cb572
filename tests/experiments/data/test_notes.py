"""What is said of a table that can be read but may not be what was meant; and the order of its classes."""

import json
import os
import subprocess
import sys

import pytest

from experiments import data
from experiments.data._classification import _classes


def labelled(tmp_path, labels, n=140):
    path = tmp_path / f"{abs(hash(tuple(labels)))}.jsonl"
    rows = ({"text": f"text {i}", "label": labels[i % len(labels)]} for i in range(n))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "labels",
    [
        ["caf\u00e9", "cafe\u0301", "bar"],
        ["Pos", "pos", "neg"],
        ["\uff21", "A", "B"],
        ["not a", "not  a", "b"],
    ],
)
def test_classes_that_look_the_same_are_remarked_on(tmp_path, read, labels):
    task = read("jsonl", labelled(tmp_path, labels))
    (note,) = [note for note in task.notes if "differ only in how they are written" in note]
    assert all(ascii(label) in note for label in labels[:2]) and ascii(labels[2]) not in note
    assert len(task.labels) == 3


def test_classes_that_differ_are_not(tmp_path, read):
    notes = read("jsonl", labelled(tmp_path, ["cafe", "café", "caf"])).notes
    assert not any("differ only" in note for note in notes)


@pytest.mark.parametrize(
    ("labels", "scale"),
    [
        ([0.5, 1.5, 2.0], True),
        ([1, 2, 3.8], True),
        ([0, 10, 20, 30, 40, 50], True),
        ([1, 2, 3, 4, 5], False),
        ([0, 1], False),
        ([0, 2, 4], False),
        (list(range(15)), False),
        (["1.5", "2.5", "n/a"], False),
        (["nan", "inf", "1"], False),
    ],
)
def test_numbers_that_look_like_a_scale_are_remarked_on(tmp_path, read, labels, scale):
    notes = read("jsonl", labelled(tmp_path, labels, 150)).notes
    assert any("look like a scale (a regression)" in note for note in notes) == scale


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path, read, sentences):
    table = "text,label\n" + "".join(f"{text},{label}\n" for text, label in sentences)
    for name in ("train.csv", "notes.csv", "LICENSE", "train.jsonl", ".hidden"):
        (tmp_path / name).write_text(table)
    (tmp_path / "more").mkdir()
    assert "ignored in the folder: LICENSE, notes.csv, train.jsonl" in read("csv", tmp_path).notes
    (tmp_path / "later").write_text("x")
    data._read.cache_clear()  # a process reads its data once
    assert "ignored in the folder: LICENSE, later, notes.csv, train.jsonl" in read("csv", tmp_path).notes


def test_a_class_called_nan_is_sorted_as_a_word():
    labels = ["10", "nan", "9", "zebra", "NaN", "-inf", "apple", "infinity", "2.5"]
    expected = ("-inf", "2.5", "9", "10", "NaN", "apple", "infinity", "nan", "zebra")
    parts = {"train": [("t", label) for label in labels], "validation": [], "test": []}
    for turn in range(len(labels)):
        order = labels[turn:] + labels[:turn]
        assert _classes({**parts, "train": [("t", label) for label in order]}) == expected


def test_the_fingerprint_is_the_same_under_every_hash_seed(tmp_path):
    path = labelled(tmp_path, ["nan", "pos", "neg", "NAN", "1"])
    seen = set()
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "ABLORA_CACHE": str(tmp_path / seed)}
        command = [sys.executable, "-m", "experiments.data", "jsonl", f"path={path}"]
        shown = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        seen.add(tuple(line for line in shown.splitlines() if "classes" in line or "fingerprint" in line))
    assert len(seen) == 1 and "NAN 28, nan 28, neg 28, pos 28" in str(seen)


@pytest.mark.parametrize(
    ("columns", "options"),
    [(("sentence1", "sentence2"), {}), (("left", "right"), {"text": ["left", "right"], "label": "label"})],
)
def test_columns_that_are_joined_are_said_to_be(tmp_path, read, columns, options):
    path = tmp_path / "pairs.csv"
    rows = (f"a man {n},someone {n % 7},{'yes' if n % 2 else 'no'}" for n in range(120))
    path.write_text(f"{','.join(columns)},label\n" + "\n".join(rows))
    task = read("csv", path, **options)
    assert "a man 3\nsomeone 3" in [text for rows in task.splits.values() for text in rows.texts]
    said = f"the columns {columns[0]!r} and {columns[1]!r} are joined to one text, a line each"
    assert sum(note.startswith(said) for note in task.notes) == 1


def test_one_column_is_not(tmp_path, read):
    assert not any(
        "joined to one text" in note for note in read("jsonl", labelled(tmp_path, ["a", "b"])).notes
    )
