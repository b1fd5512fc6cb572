"""What a job runs: a copy of the code, and slurm/job.sbatch with its blanks filled in."""

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import provenance
from experiments.files import explained
from experiments.sweep.slurm.settings import Settings

PARTS = ("run.py", "conf", "variants", "experiments", "analysis", "hydra_plugins", "slurm")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "*.png", ".*")
ALWAYS = ("--requeue", "--open-mode=append")  # what interrupts a job starts it again, with the same log


def copy_code(target: Path) -> None:
    """Copy the running code to a new folder, with a note of where it came from (`provenance.source`).

    So queued jobs run it whatever becomes of the tree. A job that submits the next ones runs from such a copy
    itself: the note is then handed on.
    """
    with explained(target):
        target.mkdir()
        (target / provenance.STAMP).write_text(json.dumps(provenance.source(), indent=1), encoding="utf-8")
        for name in PARTS:
            original = provenance.ROOT / name
            if original.is_dir():
                shutil.copytree(original, target / name, ignore=_LEFT_OUT)
            elif original.exists():  # an installation has no run.py
                shutil.copy2(original, target / name)


def render(code: Path, settings: Settings, *, words: Sequence[str], command: Sequence[str]) -> str:
    """The text of a script.

    Args:
        code: The copy of the code that the job runs.
        settings: The launcher's keys.
        words: Options of sbatch.
        command: What the job does; "python" stands for the jobs' interpreter.
    """
    env = Path(settings.job("env") or code / "slurm/env.sh").absolute()
    python = settings.job("python") or sys.executable
    blanks = {
        "options": "\n".join(f"#SBATCH {_quoted(word)}" for word in (*words, *ALWAYS)),
        "directory": shlex.quote(str(Path.cwd())),
        "code": shlex.quote(str(code.absolute())),
        "env": shlex.quote(str(env)),
        "setup": "\n".join(settings.job("setup")),
        "command": shlex.join(python if word == "python" else word for word in command),
    }
    text = (code / "slurm/job.sbatch").read_text(encoding="utf-8")
    for name, value in blanks.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def write(path: Path, text: str) -> Path:
    """Write a script beside the other files of its submission."""
    with explained(path):
        path.write_text(text, encoding="utf-8")
    return path


def _quoted(word: str) -> str:
    """An option as a line of a script takes it: a value with a blank in it goes in quotes."""
    name, equals, value = word.partition("=")
    return f'{name}{equals}"{value}"' if " " in value else word
