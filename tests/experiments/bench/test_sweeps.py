"""The measurements of sweeps, on sizes that take a moment: they measure what they say and say the target."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.bench.commands import checkpoint
from experiments.bench.fake import finish, specs_of
from experiments.console import commands
from experiments.errors import UserError
from experiments.record import verify

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


def test_expand_counts_what_is_done_and_says_its_targets(tmp_path, capsys):
    table = tmp_path / "table.csv"
    words = ["expand", "--cells", "200", "--done", "3", "--csv", str(table)]
    assert commands.run("experiments.bench", "", words) == 0
    said = capsys.readouterr().out
    assert "200 cells: 3 done, 197 left, of 20 kinds" in said
    assert "target 60 s" in said and "target 2 GB" in said
    found = rows(table)
    assert {row["cells"] for row in found} == {"200"}
    assert all(float(row["value"]) > 0 for row in found)


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


def test_the_share_of_checkpoints_is_measured_in_a_run(tmp_path, tiny_bert, monkeypatch, capsys):
    rows_of_text = "\n".join(
        f"{'good' if i % 3 else 'bad'} {i},{'yes' if i % 3 else 'no'}" for i in range(40)
    )
    (tmp_path / "toy.csv").write_text(f"text,label\n{rows_of_text}\n")
    tiny = ["model=hf", f"model.path={tiny_bert}", "dataset=csv", f"dataset.path={tmp_path / 'toy.csv'}"]
    monkeypatch.setattr(checkpoint, "specs_of", lambda *words: specs_of(*words, "r=2", *tiny))
    table = tmp_path / "table.csv"
    words = ["checkpoint", "--variant", "lora", "--steps", "2", "--every", "1", "--csv", str(table)]
    assert commands.run("experiments.bench", "", words) == 0
    assert "target 2%" in capsys.readouterr().out
    [row] = rows(table)
    assert float(row["checkpoint_seconds"]) > 0 and row["every"] == "1"
