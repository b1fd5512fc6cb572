"""What a person meets at the terminal: help, exit codes, no traceback, and nothing heavy imported first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.config.groups import Conf

ROOT = Path(__file__).resolve().parents[3]
CONF = ROOT / "conf"
HEAVY = ("torch", "transformers", "datasets", "evaluate", "wandb", "bitsandbytes", "pandas")


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_mistakes_end_with_exit_code_2_and_no_traceback():
    done = python("run.py", "r=abc", "variant=dorra")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Nothing was started: 2 mistakes in this command.\n  - ")
    assert "Traceback" not in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 100


def test_a_traceback_is_there_for_those_who_ask():
    done = python("run.py", "r=abc", ABLORA_TRACEBACK="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_what_hydra_refuses_is_a_mistake_too():
    assert python("run.py", "hydra.nonsense=1").returncode == 2


@pytest.mark.parametrize("words", [["r=0"], ["--help"]])
def test_nothing_heavy_is_imported_to_answer(words):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['run.py', *{words!r}]\n"
        "try:\n    runpy.run_path('run.py', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        f"sys.exit(', '.join(name for name in {HEAVY!r} if name in sys.modules) or 0)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_help_names_what_there_is_and_fits_the_terminal():
    done = python("run.py", "--help")
    assert done.returncode == 0
    for group in ("variant", "dataset", "model", "tracker", "experiment"):
        for name in Conf(CONF).choices(group):
            assert f"  {name} " in done.stdout
    for key in ("r=8", "targets=null", "train.steps=150", "arXiv:2402.09353", "report.html", "exit code"):
        assert key.lower() in done.stdout.lower()
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_a_configuration_is_shown_without_a_run(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "run.py", "--cfg", "job", "variant=dora", "train.epochs=3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "delta: dora" in done.stdout
    assert "steps: null" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_tab_completion_knows_the_variants():
    line = "python run.py variant=dor"
    done = python("run.py", "-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert done.stdout.strip() == "variant=dora"
