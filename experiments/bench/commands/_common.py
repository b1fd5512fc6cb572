"""What the measurements have in common: words, commands that are timed, tables. No torch: help is quick."""

import argparse
import csv
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.errors import UserError
from experiments.sweep.resources import HOME, environment

RUN = (sys.executable, str(HOME / "run.py"))
SHAPES = ("minilm", "0.1b", "0.5b", "1.5b", "8b")
TARGETS = ("qv", "qkv", "attention", "mlp", "all")
USUAL = ("lora", "dora", "adalora", "qlora")
OTHERS = (  # as `contenders.VARIANTS`
    "lora_fa", "pissa", "olora", "eva", "loftq", "vera", "miss", "delora", "hira", "fourierft", "randlora",
    "gralora", "oft", "loha", "lokr", "ia3", "prefix", "ptuning_v2", "prompt",
)  # fmt: skip


def add_choices(
    parser: argparse.ArgumentParser,
    *,
    rounds: int | None,
    variants: bool = True,
    shapes: tuple[str, ...] = SHAPES,
) -> None:
    """The words, with this many rounds by default; None where nothing is timed. The first shape is usual."""
    parser.add_argument("--targets", type=some_of(TARGETS), default="qv,all", help="presets, by commas")
    if variants:
        parser.add_argument(
            "--variants", type=some_of((*USUAL, *OTHERS)), default=",".join(USUAL), help="by commas"
        )
    parser.add_argument("--r", type=at_least(1), default=8, help="rank")
    parser.add_argument(
        "--shape",
        choices=shapes,
        default=shapes[0],
        help="the model, or a Llama of this size with random weights",
    )
    parser.add_argument("--batch", type=at_least(1), default=16, help="texts in a batch")
    parser.add_argument("--length", type=at_least(2), default=48, help="tokens in a text")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=at_least(0), default=1, help="0: as many as torch takes")
    if rounds is not None:
        parser.add_argument(
            "--rounds", type=at_least(3), default=rounds, help="how often each takes its turn"
        )
    parser.add_argument("--csv", type=Path, help="write the table there as well")


def add_completions(parser: argparse.ArgumentParser) -> None:
    """Whose answers, to which prompts."""
    parser.add_argument("--model", default="smollm2_q4", help="a file of conf/model, a folder (%(default)s)")
    parser.add_argument("--dataset", default="docstrings", help="of completions (%(default)s)")
    parser.add_argument("--path", help="its local files")


def title(what: str, options: argparse.Namespace) -> str:
    """What was measured on what."""
    return (
        f"{what}: {options.shape}, {options.batch} texts of {options.length} tokens, r = {options.r}, "
        f"{options.precision}"
    )


def some_of(known: tuple[str, ...]):
    def chosen(text: str) -> list[str]:
        words = text.split(",")
        unknown = [word for word in words if word not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return words

    return chosen


def at_least(least: int):
    """The type of an option: a whole number, no smaller."""

    def number(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
        return int(text)

    return number


def numbers(least: int):
    """The type of an option: whole numbers by commas, none smaller."""
    number = at_least(least)
    return lambda text: [number(word) for word in text.split(",")]


def write_csv(path: Path | None, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table to a file, if one was asked for."""
    if path is not None:
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])


def timed(command: Sequence[str], folder: str | None = None) -> tuple[float, str]:
    """Wall seconds of a command that works in a folder (None: in ablora's), and its output."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder or HOME, env=environment(), capture_output=True, text=True)
    wall = time.perf_counter() - started
    if done.returncode:
        why = done.stderr.strip()[-500:]
        raise UserError(f"{' '.join(command[1:4])} ended with {done.returncode}: {why}")
    return wall, done.stdout
