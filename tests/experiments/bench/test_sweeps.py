"""The measurements of sweeps, on sizes that take a moment: they measure what they say and say the target."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.bench.fake import conclude, finish, specs_of
from experiments.console import commands
from experiments.errors import UserError
from experiments.record import RunFolder, verify

HOME = Path(__file__).parents[3]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_made_up_run_is_a_whole_one(tmp_path):
    [spec] = specs_of("variant=lora", "study=bench")
    finish(spec, tmp_path / "bench" / "run", adapter_bytes=10)
    assert verify(tmp_path / "bench" / "run") == []


def test_words_that_no_command_would_accept_make_no_specs():
    with pytest.raises(UserError, match="at most 384"):
        specs_of("variant=lora", "r=1000")


@pytest.mark.slow
def test_resume_finds_nothing_to_do_in_a_finished_study(tmp_path):
    table = tmp_path / "table.csv"
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench", "resume", "--runs", "4", "--csv", str(table)],
        cwd=HOME, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "target 3 s" in done.stdout
    assert [row["runs"] for row in rows(table)] == ["4"] * 4


def test_what_runs_cost_beside_their_work_is_read_from_their_records(tmp_path, capsys):
    seconds = {"load": 1.0, "train": 10.0, "evaluate": 2.0, "checkpoint": 0.25, "harness": 0.125}
    for run_id, spec in zip("ab", specs_of("variant=lora", "seed=0,1", "study=made"), strict=True):
        cost = {f"{name}_seconds": value for name, value in seconds.items()}
        run = RunFolder(tmp_path / "made" / run_id)
        conclude(run, spec.as_record(), history="", metrics={"test/accuracy": 0.5}, cost=cost)
    assert commands.run("experiments.bench", "", ["overhead", str(tmp_path / "made")]) == 0
    said = capsys.readouterr().out
    assert "harness, median: 0.125 s, target 0.3 s" in said and "median: 2.50% of the training time" in said
