"""The docstrings of the installed scipy as a task."""

import subprocess
import sys
from collections import Counter

import pytest

from experiments import data
from experiments.data import scipy_topics


@pytest.fixture(scope="module")
def task():
    return data.read_options("scipy_topics", {"max_length": 48})


def test_thirteen_classes_in_splits_of_a_useful_size(task):
    sizes = {split: len(rows) for split, rows in task.splits.items()}
    assert len(task.labels) == 13
    assert 2900 < sum(sizes.values()) < 3500
    assert sizes["train"] > 2000 and sizes["validation"] > 350 and sizes["test"] > 450
    for rows in task.splits.values():
        assert len(set(rows.labels)) == 13
    counts = Counter(label for rows in task.splits.values() for label in rows.labels)
    assert min(counts.values()) > 40


def test_no_text_occurs_twice_or_in_two_splits(task):
    texts = [text for rows in task.splits.values() for text in rows.texts]
    assert len(texts) == len(set(texts))


def test_texts_are_sentences_without_markup_or_the_path_of_their_subpackage(task):
    for rows in task.splits.values():
        for text, label in zip(rows.texts, rows.labels, strict=True):
            assert len(text.split()) >= scipy_topics.FEWEST_WORDS
            assert "`" not in text and "\n" not in text and "Parameters ---" not in text and "%(" not in text
            assert f"scipy.{task.labels[label]}" not in text


@pytest.mark.parametrize(
    ("docstring", "text"),
    [
        (
            "Find a root.\n\nSee `scipy.optimize.brentq`.\n\nParameters\n----------\nf : x\n",
            "Find a root. See brentq.",
        ),
        (
            "=====\nTitle (:mod:`scipy.io`)\n=====\n\n.. currentmodule:: scipy.io\n\nReads.",
            "Title (scipy) Reads.",
        ),
        ("A random variable.\n\n%(before_notes)s\n\nNotes\n-----\nNone.", "A random variable."),
        ("Parameters\n----------\nx : int", ""),
        ("Solve :math:`A x = b`\nin one go.", "Solve A x = b in one go."),
    ],
)
def test_a_docstring_is_read_up_to_its_first_section(docstring, text):
    assert scipy_topics.clean(docstring) == text


def test_scipy_is_read_and_not_imported_and_neither_is_torch():
    code = (
        "import sys; from experiments import data\n"
        "raw = data.read_options('scipy_topics', {})\n"
        "print(raw.fingerprint, {'scipy', 'torch', 'transformers', 'datasets'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split(maxsplit=1)[1].strip() == "set()", done.stderr


def test_a_second_process_reads_the_same_rows(task):
    code = "from experiments import data; print(data.read_options('scipy_topics', {}).fingerprint)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == task.fingerprint, done.stderr
