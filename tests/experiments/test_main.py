"""`ablora COMMAND`: the same modules under one name, found at once."""

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from experiments import __main__ as ablora

ROOT = Path(__file__).resolve().parents[2]


def given(*words):
    """A command in a process of its own: its exit code, output and errors."""
    done = subprocess.run(
        [sys.executable, "-m", "experiments", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_installed_command_is_this_module():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"ablora": "experiments.__main__:main"}


@pytest.mark.parametrize("name", [name for name in ablora.COMMANDS if name != "run"])
def test_every_command_is_a_module_or_a_subcommand_of_one(name):
    module, before, _ = ablora.COMMANDS[name]
    assert importlib.util.find_spec(module) is not None
    for word in before:
        assert importlib.util.find_spec(f"{module}.commands.{word}") is not None


@pytest.mark.parametrize("option", ["--help", "-h", "help"])
def test_help_names_every_command_and_imports_none(option, capsys):
    assert ablora.main([option]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in ablora.COMMANDS)
    code = "import sys; from experiments.__main__ import main; main(['--help'])\n"
    code += "assert not {'omegaconf', 'hydra', 'yaml', 'pandas', 'rich', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rport", "runs/x"], "Did you mean 'report'?"),
        (["stats"], "Did you mean 'status'?"),
        (["xyzzy"], "Known: run, plan, status"),
        (["variant=lora", "r=4"], "ablora run variant=lora r=4"),
    ],
)
def test_what_is_no_command_is_told_with_what_was_meant(words, told, capsys):
    assert ablora.main(words) == 2
    assert told in capsys.readouterr().err


def test_no_command_is_a_mistake(capsys):
    assert ablora.main([]) == 2
    assert "usage: ablora COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["run", "r=x"], 2, "r takes a whole number of at least 1, not 'x'"),
        (["run", "--help"], 0, "variant=dora,lora"),
        (["plan", "vraiant=lora"], 2, "Did you mean 'variant'?"),
        (["status", "nowhere"], 2, "nowhere"),
        (["report", "nowhere"], 2, "nowhere"),
        (["export", "nowhere", "out", "--to", "peft"], 2, "nowhere"),
    ],
)
def test_a_command_does_what_its_module_does(words, code, told):
    ended, out, err = given(*words)
    assert ended == code
    assert told in out + err
