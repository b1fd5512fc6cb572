"""A small study of its own to run, as a user would from a shell.

Tiny BERT, a hundred short texts, a few steps.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

WORDS = {5: ["good", "fine"], 1: ["bad", "poor"]}
HOME = Path(__file__).parents[3]


class Shell:
    """An empty folder with reviews.csv in it, and ablora's commands run there."""

    def __init__(self, folder: Path, model: Path):
        self.folder = folder
        self.home = HOME  # the tree whose run.py is called
        self.model = model
        rng = random.Random(0)
        rows = [
            f"{rng.choice(WORDS[stars])} {rng.choice('abcdefgh')} {i},{stars}"
            for i, stars in enumerate(rng.choice([1, 5]) for _ in range(150))
        ]
        (folder / "reviews.csv").write_text("review,stars\n" + "\n".join(rows) + "\n")
        self.words = {
            "model": "hf", "model.path": model, "dataset": "csv", "dataset.path": "reviews.csv",
            "dataset.text": "review", "dataset.label": "stars", "dataset.max_length": 32, "train.steps": 8,
            "train.batch_size": 8, "study": "toy", "lr": 0.01, "train.threads": 1,
            "pack": "off",  # auto decides by the clock
        }  # fmt: skip

    def start(self, *words: str, **environment: str) -> subprocess.Popen:
        """`python run.py WORDS` on the small study, under way."""
        given = self.words | dict(word.split("=", 1) for word in words)
        command = [
            sys.executable,
            str(self.home / "run.py"),
            *(f"{key}={value}" for key, value in given.items()),
        ]
        return subprocess.Popen(
            command, cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )  # fmt: skip

    def run(self, *words: str, **environment: str) -> tuple[int, str]:
        """The exit code and the output of a command, once it has ended."""
        process = self.start(*words, **environment)
        try:
            output, _ = process.communicate(timeout=800)  # less than a test may take
        finally:
            process.kill()
        return process.returncode, output

    def records(self, study: str = "toy") -> dict[str, dict]:
        """The records of a study by the run's folder."""
        return {
            path.parent.name: json.loads(path.read_text())
            for path in sorted((self.folder / "runs" / study).glob("*/record.json"))
        }


@pytest.fixture
def shell(tmp_path, tiny_bert) -> Shell:
    return Shell(tmp_path, tiny_bert)


@pytest.fixture(scope="module")
def module_shell(tmp_path_factory, tiny_bert) -> Shell:
    """A study that the tests of a file share."""
    return Shell(tmp_path_factory.mktemp("shell"), tiny_bert)
