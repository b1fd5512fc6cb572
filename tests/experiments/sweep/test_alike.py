"""When failures are the same failure."""

import pytest

from experiments.sweep.alike import cause, likeness

MIB = "OutOfMemoryError: CUDA out of memory. Tried to allocate {} MiB, of 79.2 GiB {} MiB is free"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("failed", "ValueError: no a-1"), ("failed", "ValueError: no b-2"), True),
        (("oom", MIB.format(20, 13.5)), ("oom", "OutOfMemoryError: Tried to allocate 1.2 GiB"), True),
        (("failed", "OSError: read 512 of 1024"), ("failed", "OSError: read 9 of 1024"), True),
        (("failed", "RuntimeError: at 0x7f3a"), ("failed", "RuntimeError: at 0x11bc"), True),
        (("failed", "ValueError: no"), ("failed", "TypeError: no"), False),
        (("failed", "ValueError: no rank"), ("failed", "ValueError: no layer"), False),
        (("failed", "x: y"), ("oom", "x: y"), False),
    ],
)
def test_kind_and_words_count_numbers_and_names_do_not(one, other, same):
    assert (likeness("a-1", *one) == likeness("b-2", *other)) is same


def ended(status, message="no luck", kind="ValueError"):
    return {"status": status, "error": {"kind": kind, "message": message}}


@pytest.mark.parametrize(
    ("endings", "found"),
    [
        ([ended("failed")] * 3, "ValueError: no luck"),
        ([ended("oom", "1 MiB"), ended("oom", "2 GiB"), ended("oom", "3 MiB")], "ValueError: 3 MiB"),
        ([ended("failed")] * 2, None),
        ([ended("failed")] * 3 + [ended("completed")], None),
        ([ended("failed")] * 3 + [ended("diverged")], None),
        ([ended("failed")] * 3 + [ended("failed", kind="TypeError")], None),
        ([], None),
    ],
)
def test_the_cause_is_told_when_enough_have_failed_alike_and_nothing_else_happened(endings, found):
    assert cause((f"run-{i}", record) for i, record in enumerate(endings)) == found
