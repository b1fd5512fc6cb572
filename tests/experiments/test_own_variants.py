"""A variant is one file and one yaml, anywhere: trained, counted, resumed, kept, exported, reported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "tests" / "variants" / "own"
ADAPTERS = {  # parameters on q and v of two layers, all 24 x 24, at r=2
    "lora_fa": 4 * 24 * 2,
    "vera": 4 * (2 + 24),
    "lora_xs": 4 * 2 * 2,
    "tinylora": 4 * 64,
    "miss": 4 * 24 * 2,
    "delora": 4 * (2 * (24 + 24) + 1),
    "hira": 4 * 2 * (24 + 24),
    "fourierft": 4 * 250,
    "randlora": 4 * 12 * (2 + 24),
    "gralora": 4 * 2 * (24 + 24),
    "loha": 4 * 2 * 2 * (24 + 24),
    "lokr": 4 * (4 * 4 + 2 * (6 + 6)),
    "oft": 4 * 12,
    "boft": 4 * 2 * 12,
    "loha_like": 4 * 2 * 2 * (24 + 24),  # in a folder of its own
}
NAMES = tuple(ADAPTERS)


def command(*arguments, folder, ended=0):
    """A command of the shell, in a folder, with that of our own variants in its environment."""
    environment = {**os.environ, "ABLORA_VARIANTS": str(OWN), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, *arguments]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == ended, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_bert):
    """The folder of a small sweep over our own variants, its words, and what the plan said of it."""
    folder = tmp_path_factory.mktemp("own")
    table = folder / "toy.csv"
    rows = (f"{'good' if i % 3 else 'bad'} {i},{'yes' if i % 3 else 'no'}" for i in range(60))
    table.write_text("text,label\n" + "\n".join(rows) + "\n")
    words = [
        f"--config-dir={OWN / 'conf'}", f"variant={','.join(NAMES)}", "r=2", "targets=qv", "model=hf",
        f"model.path={tiny_bert}", "dataset=csv", f"dataset.path={table}", "train.steps=6",
        "train.batch_size=8", "train.evaluations=1", "lr=0.05", "signatures=false", "study=own",
    ]  # fmt: skip
    plan = command("-m", "experiments.sweep", "plan", "-m", *words, folder=folder)
    command(str(ROOT / "run.py"), "-m", *words, folder=folder)
    return folder / "runs" / "own", plan


def records(folder):
    found = [json.loads(path.read_text()) for path in folder.glob("*/record.json")]
    return {record["spec"]["variant"]: record for record in found}


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_is_counted_as_planned(study, name):
    folder, plan = study
    record = records(folder)[name]
    assert record["status"] == "completed" and not record["deviations"]
    assert 0 <= record["metrics"]["test/accuracy"] <= 1
    assert record["cost"]["adapter_parameters"] == ADAPTERS[name]
    row = next(line for line in plan.splitlines() if f" {name} " in line)
    head = record["cost"]["trainable_parameters"] - ADAPTERS[name]
    assert f" {ADAPTERS[name]:,} " in row and f" {head:,} " in row


RESUMED = """
import sys
from pathlib import Path
from experiments.record import RunFolder
from experiments.spec import RunSpec, Train
from experiments.tracking import make
from experiments.training.execute import Interrupted, execute
from experiments.training.run_state import Run

class Quiet:
    def run_started(self, run_id, steps, done=0): ...
    def step(self, run_id, step, loss): ...

folder, model, table, *names = sys.argv[1:]
for name in names:
    spec = RunSpec(
        study="toy", variant=name, method="adapters", r=2, alpha=4.0, targets="qv", axes={"delta": name},
        options={"dropout": 0.1}, model="hf", model_options={"path": model}, dataset="csv",
        dataset_options={"path": table, "text": "text", "label": "label", "max_length": 16}, lr=0.02, seed=0,
        train=Train(steps=8, batch_size=8, head_lr=0.02, log_every=2),
    )
    run = lambda part: Run(spec, name, RunFolder(Path(folder) / f"{name}-{part}"), make({"name": "none"}))
    execute([run("straight")], display=Quiet())
    stops = iter([False] * 4 + [True])
    try:
        execute([run("resumed")], display=Quiet(), should_stop=lambda: next(stops))
    except Interrupted:
        execute([run("resumed")], display=Quiet())
    parts = [Path(folder) / f"{name}-{part}" / "adapter" for part in ("straight", "resumed")]
    kept = [sorted(part.glob("*.safetensors")) for part in parts]
    assert len(kept[0]) == 1 and kept[0][0].read_bytes() == kept[1][0].read_bytes(), name
"""


def test_a_resume_gives_the_same_bits(tmp_path, tiny_bert, toy_csv):
    command("-c", RESUMED, str(tmp_path), str(tiny_bert), str(toy_csv), *NAMES, folder=tmp_path)
    assert len(list(tmp_path.glob("*-resumed/record.json"))) == len(NAMES)


def test_the_record_says_as_a_fact_how_it_is_kept(study):
    kept = {name: record["adapter"]["kept_as"] for name, record in records(study[0]).items()}
    assert kept == dict.fromkeys(NAMES, "tensors") | {"lora_fa": "peft lora"}


@pytest.mark.parametrize("name", ["lora_fa", "vera", "loha_like"])
def test_it_is_exported_or_refused_in_a_sentence(study, name, tmp_path):
    run = study[0] / records(study[0])[name]["run_id"]
    export = ("-m", "experiments.export", str(run))
    kept = name != "loha_like"
    if name != "lora_fa":
        command(*export, str(tmp_path / "merged"), "--to", "merged", folder=tmp_path)
        assert (tmp_path / "merged" / "model.safetensors").is_file()
    answer = command(*export, str(tmp_path / "peft"), "--to", "peft", folder=tmp_path, ended=0 if kept else 2)
    assert (tmp_path / "peft" / "adapter_model.safetensors").is_file() == kept
    assert kept or "PEFT" in answer.strip().splitlines()[-1]


def test_the_report_names_them(study):
    command("-m", "analysis.report", str(study[0]), folder=study[0])
    pages = "".join(page.read_text() for page in study[0].rglob("*.html"))
    assert all(name in pages for name in NAMES)
