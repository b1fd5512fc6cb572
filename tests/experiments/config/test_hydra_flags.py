"""Hydra's own options reach Hydra, and work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def typed(tmp_path):
    """What a command prints, and its exit code."""

    def run(*words, **environment):
        done = subprocess.run(
            [sys.executable, str(ROOT / "run.py"), *words],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stdout + done.stderr and not (tmp_path / "runs").exists()
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--hydra-help"], "--shell-completion"),
        (["variant=dora", "--info", "defaults"], "variant/dora"),
        (["--shell-completion", "install=bash"], "hydra_bash_completion"),
        (["-c", "job", "-p", "train", "train.steps=7"], "steps: 7"),
        (["-c", "hydra", "-p", "hydra.sweeper", "+experiment=default_lr"], "fair.Fair"),
    ],
)
def test_what_hydra_answers_is_answered(typed, words, shown):
    code, said = typed(*words)
    assert code == 0 and shown in said


def test_a_key_is_completed(typed):
    code, said = typed("-sc", "query=bash", COMP_LINE="python run.py variant=lo")
    assert code == 0 and {"variant=lora", "variant=loraplus"} <= {*said.split()}
    assert all(word.startswith("variant=lo") for word in said.split())


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["-sc"], "takes install=bash"),
        (["-sc", "variant=lora"], "takes install=bash"),
        (["-sc", "install=cmd"], "takes install=bash"),
        (["-sc", "query=zsh"], "is for the shell alone"),
        (["--experimental-rerun", "gone.pickle"], "which no run here leaves"),
    ],
)
def test_what_hydra_cannot_answer_is_refused_in_a_sentence(typed, words, shown):
    code, said = typed(*words)
    assert code == 2 and shown in said and len(said.strip().splitlines()) == 1
