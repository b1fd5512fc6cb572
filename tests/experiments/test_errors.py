"""What a word was meant to be, and what people see of mistakes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.errors import did_you_mean, nearest, printable

HOME = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("dorra", "dora"),
        ("DORA", "dora"),
        ("adlora", "adalora"),
        ("lr_ration", "lr_ratio"),
        ("xyz", None),
        ("", None),
    ],
)
def test_the_nearest_word_is_found_or_none(word, meant):
    assert nearest(word, ["lora", "dora", "adalora", "lr_ratio"]) == meant


def test_the_sentence_is_empty_where_nothing_is_near():
    assert did_you_mean("dorra", ["dora"]) == " Did you mean 'dora'?"
    assert did_you_mean("xyz", ["dora"]) == ""


# --- what is shown, and to whom


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢 \U0001f600", "plain é 漢 \U0001f600"),
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[31mred\x1b[0m", "\ufffd[31mred\ufffd[0m"),
        ("bell\x07 back\x08 del\x7f c1\x9b nul\x00", "bell\ufffd back\ufffd del\ufffd c1\ufffd nul\ufffd"),
        (os.fsdecode(b"caf\xe9"), "caf\ufffd"),
    ],
)
def test_control_characters_and_broken_names_are_replaced(text, shown):
    assert printable(text) == shown


TALK = """
import sys
from experiments.errors import UserError, report_errors

def talk():
    if sys.argv[1] == "wrong":
        raise UserError("no study \\x1b[2Jdemo")
    for number in range(100_000):
        print("line", number)

sys.exit(report_errors(talk))
"""


def talk(kind, stdout):
    command = [sys.executable, "-c", TALK, kind]
    return subprocess.Popen(command, cwd=HOME, stdout=stdout, stderr=subprocess.PIPE, text=True)


def test_a_closed_pipe_ends_a_command_quietly():
    with talk("long", subprocess.PIPE) as process:
        assert process.stdout.readline() == "line 0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 128 + signal.SIGPIPE


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_said_in_a_line():
    with open("/dev/full", "w") as full, talk("long", full) as process:
        assert process.stderr.read() == "error: the output cannot be written: No space left on device.\n"
        assert process.wait(60) == 1


def test_a_mistake_is_shown_without_escape_sequences():
    with talk("wrong", subprocess.PIPE) as process:
        assert process.stderr.read() == "error: no study \ufffd[2Jdemo\n"
        assert process.wait(60) == 2
