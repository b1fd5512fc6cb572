"""Examples that flip between two variants: which, what was said, and their texts by the hash of the text."""

import csv
import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import report
from experiments.errors import UserError

TEXTS = [f"the {word} example" for word in ("first", "second", "third", "fourth", "fifth")]
IDS = [hashlib.sha256(text.encode()).hexdigest()[:12] for text in TEXTS]
SAID = {  # by seed: what each variant answers; the right answer is always "yes"
    "lora": ["yes no no yes no", "yes no no yes yes"],
    "dora": ["yes yes no no no", "yes yes no no yes"],
}


@pytest.fixture
def study(writer):
    w = writer(n_examples=5)
    for variant, seeds in SAID.items():
        for seed, line in enumerate(seeds):
            said = line.split()
            score = [float(word == "yes") for word in said]
            record = w.run(w.spec(variant, 8, seed), 0.6)
            record["metrics"]["test/accuracy"] = sum(score) / 5
            path = w.root / record["run_id"] / "predictions.parquet"
            columns = {"id": IDS, "label": ["yes"] * 5, "prediction": said, "score": score}
            pq.write_table(pa.table(columns), path)
            path.with_name("record.json").write_text(json.dumps(record))
    return w


def test_a_loss_is_neither_right_nor_wrong(study):
    for path in study.root.glob("*/record.json"):
        record = json.loads(path.read_text())
        record["primary"] = {"metric": "loss", "goal": "min"}
        record["metrics"]["test/loss"] = record["metrics"]["test/accuracy"]
        path.write_text(json.dumps(record))
    page = report.build(study.root, images_too=False)
    assert not (page.parent / "flips.csv").exists() and "Examples that flip" not in page.read_text()


def rows(page):
    with (page.parent / "flips.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_examples_that_flip_are_found_with_what_was_said(study):
    page = report.build(study.root, images_too=False)
    found = {row["id"]: row for row in rows(page)}
    assert set(found) == {IDS[1], IDS[3]}  # the fifth flips between seeds, not between variants
    assert (found[IDS[1]]["dora"], found[IDS[1]]["lora"]) == ("1", "0")
    assert (found[IDS[3]]["dora said"], found[IDS[3]]["lora said"]) == ("no", "yes")
    text = page.read_text()
    assert "1 won, 1 lost by dora" in text and IDS[1] in text and "--texts TABLE" in text


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_texts_come_from_any_table_that_holds_them(study, tmp_path, suffix):
    path = tmp_path / f"data.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"answer": ["yes"] * 5, "text": TEXTS}), path)
    else:
        sign = "," if suffix == "csv" else "\t"
        path.write_text(f"answer{sign}text\n" + "".join(f"yes{sign}{text}\n" for text in TEXTS))
    page = report.build(study.root, images_too=False, texts=path)
    assert {row["text"] for row in rows(page)} == {TEXTS[1], TEXTS[3]}
    assert TEXTS[1] in page.read_text()


def test_a_table_that_cannot_be_read_is_named(study, tmp_path):
    with pytest.raises(UserError, match=r"cannot read texts from .*x\.json: it is none of \.csv"):
        report.build(study.root, images_too=False, texts=tmp_path / "x.json")
