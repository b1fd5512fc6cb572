"""Splits, order and hashes: functions of the texts alone."""

import random
from collections import Counter

import pytest

from experiments import data
from experiments.data._tasks import SHARES, SPLITS, RawTask, Rows, carve, split_of
from experiments.errors import UserError

EXAMPLES = [(f"text number {i}", i % 3) for i in range(300)]


def carved(examples, **given):
    return carve(
        {"train": examples, **given}, text=lambda example: example[0], label=lambda example: example[1]
    )


def test_the_split_of_a_text_never_changes():
    texts = ["Find a root.", "", "naïve", "two\nlines", "a" * 10_000]
    assert [split_of(text) for text in texts] == ["test", "train", "test", "test", "train"]


def test_splits_come_in_their_shares():
    counts = Counter(split_of(f"text {i}") for i in range(20_000))
    assert {split: round(100 * counts[split] / 20_000) for split in SPLITS} == pytest.approx(SHARES, abs=1)


def test_neither_order_nor_company_moves_a_text():
    parts, _ = carved(EXAMPLES)
    shuffled, _ = carved(random.Random(1).sample(EXAMPLES, len(EXAMPLES)))
    assert {split: sorted(part) for split, part in parts.items()} == {
        s: sorted(p) for s, p in shuffled.items()
    }
    fewer, _ = carved(EXAMPLES[::2])
    assert all(set(fewer[split]) <= set(parts[split]) for split in SPLITS)


def test_only_what_is_missing_is_taken_out_of_train():
    test = [("a test text", 0)]
    parts, notes = carved(EXAMPLES, test=test)
    assert parts["test"] == test
    assert all(split_of(text) == "validation" for text, _ in parts["validation"])
    assert len(parts["train"]) + len(parts["validation"]) == len(EXAMPLES)
    assert notes[0].startswith("validation split from train by a hash of the text: train 2")
    assert carved(EXAMPLES, test=test, validation=test)[1] == []


def test_a_class_that_would_leave_train_stays_in_it():
    text = next(text for text, _ in EXAMPLES if split_of(text) == "test")
    parts, notes = carved([*EXAMPLES, (text, "rare")])
    assert (text, "rare") in parts["train"]
    assert notes[1].startswith("1 examples of rare classes stayed in train")


def test_rows_are_sorted_by_id_and_ids_are_unique():
    rows = Rows.classification([("same", 1), ("same", 0), ("other", 1), ("same", 1)])
    assert list(rows.ids) == sorted(rows.ids)
    assert sorted(rows.texts) == ["other", "same", "same", "same"]
    first = rows.ids[rows.texts.index("same")]
    assert {name for name, text in zip(rows.ids, rows.texts, strict=True) if text == "same"} == {
        first, f"{first}-1", f"{first}-2"
    }  # fmt: skip


def test_the_hash_of_rows_knows_no_order_and_every_cell():
    rows = Rows.classification(EXAMPLES)
    assert rows.sha256 == Rows.classification(reversed(EXAMPLES)).sha256
    backwards = Rows(*(column[::-1] for column in (rows.ids, rows.texts, rows.labels)))
    assert rows.sha256 == backwards.sha256
    for changed in [("text number 0 ", 0), ("text number 0", 1)]:
        assert rows.sha256 != Rows.classification([changed, *EXAMPLES[1:]]).sha256


def test_the_names_of_classes_count_in_the_fingerprint():
    splits = {split: Rows.classification(EXAMPLES) for split in SPLITS}
    one, other = (RawTask("t", "classification", labels, splits) for labels in (("a", "b"), ("a", "c")))
    assert one.sha256 == other.sha256
    assert one.fingerprint != other.fingerprint


def test_every_module_of_the_folder_is_a_dataset_with_its_options():
    import yaml

    from experiments.config.groups import CONF

    assert {"scipy_topics", "csv", "jsonl", "instruct"} <= set(data.names())
    for name in data.names():
        module = data._module(name)
        assert callable(module.read) and callable(module.source) and module.__doc__.startswith(name)
        options = yaml.safe_load((CONF / "dataset" / f"{name}.yaml").read_text())
        assert options["name"] in (name, None) and isinstance(options["max_length"], int)


def test_an_unknown_dataset_names_the_nearest_and_how_to_add_one(spec_of):
    with pytest.raises(
        UserError, match=r"no dataset 'scipy_topic'. Did you mean 'scipy_topics'\?.*conf/dataset/"
    ):
        data.read(spec_of(dataset="scipy_topic"))
