"""The user's own text classification: what is read, what is guessed, and what is refused with which words."""

import json
import random
import re

import pytest

from experiments import data
from experiments.errors import UserError

ROWS = [(f"film {i} was {'good' if i % 2 else 'bad'}, really", "pos" if i % 2 else "neg") for i in range(200)]


def write_csv(path, rows, header="text,label", separator=","):
    lines = [separator.join(f'"{cell}"' for cell in row) for row in rows]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def write_jsonl(path, rows, *, text="text", label="label"):
    path.write_text("".join(json.dumps({text: t, label: y}) + "\n" for t, y in rows), encoding="utf-8")
    return path


@pytest.fixture
def read(spec_of):
    def read(dataset, path, **options):
        return data.read(spec_of(dataset=dataset, path=str(path), **options))

    return read


def test_one_file_is_split_by_hash_and_its_order_does_not_matter(tmp_path, read):
    task = read("csv", write_csv(tmp_path / "a.csv", ROWS))
    again = read("csv", write_csv(tmp_path / "b.csv", random.Random(0).sample(ROWS, len(ROWS))))
    assert task.fingerprint == again.fingerprint and task.splits == again.splits
    assert task.labels == ("neg", "pos") and task.kind == "classification"
    assert sum(len(rows) for rows in task.splits.values()) == len(ROWS)
    assert "validation and test split from train by a hash of the text" in " ".join(task.notes)


def test_a_table_and_lines_with_the_same_cells_are_the_same_data(tmp_path, read):
    table = read("csv", write_csv(tmp_path / "a.csv", ROWS))
    lines = read("jsonl", write_jsonl(tmp_path / "a.jsonl", ROWS))
    (tmp_path / "list.json").write_text(json.dumps([{"text": t, "label": y} for t, y in ROWS]))
    assert table.fingerprint == lines.fingerprint == read("jsonl", tmp_path / "list.json").fingerprint


@pytest.mark.parametrize(("reader", "write"), [("csv", write_csv), ("jsonl", write_jsonl)])
def test_a_dataset_of_ones_own_may_name_its_reader(tmp_path, read, reader, write):
    path = write(tmp_path / "reviews", ROWS)
    assert read("mine", path, reader=reader).fingerprint == read(reader, path).fingerprint


def test_quoted_line_breaks_commas_and_quotes_are_part_of_the_text(tmp_path, read):
    odd = [('one\ntwo, and ""three""', "pos"), ("NA", "neg"), ("null", "neg"), ("  spaced  ", "pos")]
    task = read("csv", write_csv(tmp_path / "a.csv", [*ROWS, *odd]))
    texts = {text for rows in task.splits.values() for text in rows.texts}
    assert {'one\ntwo, and "three"', "NA", "null", "spaced"} <= texts


@pytest.mark.parametrize(
    ("name", "separator", "mark"),
    [("a.tsv", "\t", b""), ("a.csv", ";", b""), ("a.csv", ",", b"\xef\xbb\xbf")],
)
def test_other_separators_and_a_byte_order_mark_are_understood(tmp_path, read, name, separator, mark):
    path = write_csv(tmp_path / name, ROWS, header=separator.join(["review", "stars"]), separator=separator)
    path.write_bytes(mark + path.read_bytes())
    assert read("csv", path).labels == ("neg", "pos")


@pytest.mark.parametrize(
    ("text", "label"), [("input", "target"), ("sentence", "category"), ("Review", "Stars")]
)
def test_usual_names_of_columns_are_guessed_and_the_guess_is_told(tmp_path, read, text, label):
    task = read("jsonl", write_jsonl(tmp_path / "a.jsonl", ROWS, text=text, label=label))
    assert f"text is the column {text!r} (guessed; dataset.text=... sets it)" in task.notes
    assert f"label is the column {label!r} (guessed; dataset.label=... sets it)" in task.notes


def test_named_columns_are_taken_and_not_remarked_on(tmp_path, read):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS, text="label", label="text")
    task = read("jsonl", path, text="label", label="text")
    assert task.labels == ("neg", "pos") and not any("guessed" in note for note in task.notes)


def test_numbers_are_labels_in_the_order_of_their_values(tmp_path, read):
    rows = [(text, i % 11) for i, (text, _) in enumerate(ROWS)]
    assert read("jsonl", write_jsonl(tmp_path / "a.jsonl", rows)).labels == tuple(str(i) for i in range(11))
    assert read("csv", write_csv(tmp_path / "a.csv", rows)).labels == tuple(str(i) for i in range(11))


@pytest.mark.parametrize("names", [("train", "dev", "test"), ("my_train", "my-validation", "my.test-set")])
@pytest.mark.parametrize("how", ["folder", "glob", "list", "mapping"])
def test_files_named_after_splits_are_these_splits(tmp_path, spec_of, names, how):
    parts = {"train": ROWS[:120], "validation": ROWS[120:160], "test": ROWS[160:]}
    paths = [write_csv(tmp_path / f"{n}.csv", rows) for n, rows in zip(names, parts.values(), strict=True)]
    path = {
        "folder": str(tmp_path),
        "glob": str(tmp_path / "*.csv"),
        "list": [str(file) for file in paths],
        "mapping": dict(zip(("train", "dev", "test"), map(str, paths), strict=True)),
    }[how]
    task = data.read(spec_of(dataset="csv", path=path))
    assert {s: sorted(rows.texts) for s, rows in task.splits.items()} == {
        split: sorted(text for text, _ in rows) for split, rows in parts.items()
    }


def test_validation_is_split_from_train_where_only_train_and_test_are_given(tmp_path, read):
    write_csv(tmp_path / "train.csv", ROWS[:150])
    write_csv(tmp_path / "test.csv", [*ROWS[150:], ROWS[0]])
    task = read("csv", tmp_path)
    assert len(task.splits["test"]) == 51
    assert len(task.splits["train"]) + len(task.splits["validation"]) == 150
    assert any(note.startswith("validation split from train") for note in task.notes)
    repeated = "1 of 51 test texts also occur in train"
    assert repeated in task.notes or ROWS[0][0] in task.splits["validation"].texts


def test_several_files_without_a_split_in_their_names_are_one_pool(tmp_path, read):
    write_csv(tmp_path / "a.csv", ROWS[:100])
    write_csv(tmp_path / "b.csv", ROWS[100:])
    whole = tmp_path / "whole"
    whole.mkdir()
    assert read("csv", tmp_path).fingerprint == read("csv", write_csv(whole / "c.csv", ROWS)).fingerprint


def test_names_with_the_signs_of_a_glob_are_read_as_they_are(tmp_path, read):
    path = write_csv(tmp_path / "we[1]rd na*me.csv", ROWS)
    assert len(read("csv", path).splits["train"]) > 100


def test_rows_with_gaps_are_left_out_if_asked_for(tmp_path, read):
    path = write_csv(tmp_path / "a.csv", [*ROWS, ("", "pos"), ("no label", "")])
    task = read("csv", path, missing="drop")
    assert sum(len(rows) for rows in task.splits.values()) == len(ROWS)
    assert "rows without a text or a label, dropped: 2 (dataset.missing=drop)" in task.notes


def csv_error(content, match, **options):
    return pytest.param("a.csv", content, options, match, id=match[:40])


GOOD = "".join(f'"film {i}, yes",{i % 2}\n' for i in range(100))


@pytest.mark.parametrize(
    ("name", "content", "options", "match"),
    [
        csv_error("", "a.csv is empty"),
        csv_error("text,label\n", "a header (text, label) and no rows"),
        csv_error("text,label\na film, good,1\n", "line 2: 3 fields, but the header (text, label) has 2"),
        csv_error('text,label\n"a "b" c",1\n', "line 2: not valid CSV"),
        csv_error("text,text\na,1\n", "names a column twice"),
        csv_error('[{"text": "a", "label": "b"}]', "looks like JSON"),
        csv_error("text,label\n" + GOOD, "dataset.label=lable: there is no such column", label="lable"),
        csv_error("text,label\n" + GOOD, "Did you mean 'label'?", label="lable"),
        csv_error("text,label\n" + GOOD, "Give dataset.text=[text,label]", text="text,label", label="label"),
        csv_error("foo,bar\n" + GOOD, "none of the columns foo, bar is named like a text"),
        csv_error("text,label\n" + GOOD.replace(",1\n", ",\n"), "50 of 100 rows of train have no text"),
        csv_error("text,label\n" + GOOD + ",1\n", "row 101, counted without the header"),
        csv_error("text,label\n" + GOOD.replace(",1\n", ",0\n"), "one class only ('0') in 100 rows"),
        csv_error(
            "text,label\n" + "".join(f"t{i},{i}\n" for i in range(100)), "100 different values in 100 rows"
        ),
        csv_error("text,label\na,1\nb,2\n", "2 examples are too few to split by hash"),
        csv_error("text,label\n" + GOOD, "neither error nor drop. Did you mean 'drop'?", missing="dropp"),
        pytest.param(
            "a.jsonl", '{"text": "a", "label": 1}\n{"text": oops}\n', {}, "line 2 is not JSON", id="json"
        ),
        pytest.param("a.jsonl", '{"text": {"a": 1}, "label": 1}\n', {}, "row 1, text holds", id="nested"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_place_and_remedy(tmp_path, read, name, content, options, match):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=re.escape(match)):
        read(path.suffix[1:], path, **options)


def test_a_label_that_training_never_shows_is_refused(tmp_path, read):
    for split, rows in {
        "train": ROWS[:100],
        "dev": ROWS[100:150],
        "test": [*ROWS[150:], ("meh", "so-so")],
    }.items():
        write_csv(tmp_path / f"{split}.csv", rows)
    with pytest.raises(
        UserError, match=r"test has labels that training never shows: so-so .*training has neg, pos"
    ):
        read("csv", tmp_path)


def test_wrong_places_are_refused_with_what_is_there(tmp_path, read, spec_of):
    write_csv(tmp_path / "reviews.csv", ROWS)
    with pytest.raises(UserError, match=r"no such file or folder .*Did you mean 'reviews.csv'\?"):
        read("csv", tmp_path / "revews.csv")
    with pytest.raises(UserError, match=r"no \.jsonl or .* It holds: reviews.csv.*dataset=csv"):
        read("jsonl", tmp_path)
    with pytest.raises(UserError, match=r"needs the place of your data\. Give dataset\.path="):
        data.read(spec_of(dataset="csv", path=None))
    write_csv(tmp_path / "test.csv", ROWS)
    with pytest.raises(UserError, match=r"reviews\.csv belongs to no split"):
        data.read(spec_of(dataset="csv", path=[str(tmp_path / "reviews.csv"), str(tmp_path / "test.csv")]))
    with pytest.raises(UserError, match=r"names a split 'tests'. Did you mean 'test'\?"):
        data.read(spec_of(dataset="csv", path={"tests": str(tmp_path / "test.csv")}))
    (tmp_path / "reviews.csv").unlink()
    write_csv(tmp_path / "dev.csv", ROWS)
    with pytest.raises(UserError, match="validation and test but no training data"):
        read("csv", tmp_path)
