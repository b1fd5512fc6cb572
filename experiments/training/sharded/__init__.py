"""One run in several processes, for bases too large for one GPU: PyTorch's FSDP2 and what belongs to it."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from experiments.spec import RunSpec

if TYPE_CHECKING:
    from experiments.training.sharded.group import Group


def together(spec: RunSpec, size: int, threads: int | None) -> "AbstractContextManager[Group | None]":
    """While open, `size` processes train a run, as `peers.together` says; None for this one alone."""
    if size == 1:
        return nullcontext()
    from experiments.training.sharded import peers  # not before it is needed: importing FSDP2 takes a while

    return peers.together(spec, size, threads)
