"""Peak memory of a training step of each variant against PEFT's.

What a contender holds (frozen weights, adapter, gradients, optimiser) and what its step adds on top are told
apart. On a GPU the allocator says so; on a CPU every allocation of torch is followed, which gives the same
bytes each time, where a process's resident size would not. Scratch memory inside libraries is not seen.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from torch import nn

from experiments.bench import contenders
from experiments.bench.contenders import Contender
from experiments.bench.table import Figure
from experiments.bench.turns import Spread
from experiments.bench.workload import Workload

WARMUP = 2  # steps before the one that is followed: moments and buffers exist from then on
TO_PEFT, DORA_TO_LORA = 1.0, 1.05


@dataclass(frozen=True)
class Peak:
    """Bytes that a contender holds between steps, and that a step needs beside them at its worst moment."""

    held: int
    step: int

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return self.held + self.step


def measure(work: Workload, variants: Sequence[str], *, r: int, targets: str) -> list[Figure]:
    """Figures of the variants on one preset of targets, one contender in memory at a time."""
    figures = []
    mine: dict[str, Peak] = {}
    for variant in variants:
        ours, theirs = (
            peak(partial(make, work, variant, r=r, targets=targets), shared=work.model)
            for make in (contenders.ours, contenders.peft)
        )
        mine[variant] = ours
        figures += [
            _figure(variant, targets, "peak / PEFT's", ours.total, theirs.total, TO_PEFT),
            _figure(variant, targets, "step alone / PEFT's", ours.step, theirs.step),
        ]
        if variant == "dora" and "lora" in mine:
            lora = mine["lora"]
            figures += [
                _figure(variant, targets, "peak / our lora's", ours.total, lora.total, DORA_TO_LORA),
                _figure(variant, targets, "step alone / our lora's", ours.step, lora.step),
            ]
    return figures


def _figure(
    variant: str, targets: str, what: str, ours: int, against: int, target: float | None = None
) -> Figure:
    mine, other, ratio = (Spread.exact(value) for value in (ours / 1e6, against / 1e6, ours / against))
    return Figure(variant, targets, what, "MB", mine, other, ratio, target)


def peak(make: Callable[[], Contender], *, shared: nn.Module) -> Peak:
    """The memory of a contender.

    Args:
        make: Builds it.
        shared: The model whose tensors it may use; of them those count that it does use.
    """
    cuda = next(shared.parameters()).device.type == "cuda"
    return (_on_cuda if cuda else _on_cpu)(make, shared)


def _on_cuda(make: Callable[[], Contender], shared: nn.Module) -> Peak:
    gc.collect()
    before = torch.cuda.memory_allocated()
    contender = make()
    _warm_up(contender)
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    contender.step()
    top = torch.cuda.max_memory_allocated()
    return Peak(held - before + _used(contender.model, shared), top - held)


def _on_cpu(make: Callable[[], Contender], shared: nn.Module) -> Peak:
    made: list[Contender] = []

    def build() -> None:
        made.append(make())
        _warm_up(made[0])

    before = allocated(build)
    return Peak(before.held + _used(made[0].model, shared), allocated(made[0].step).total)


def allocated(action: Callable[[], object]) -> Peak:
    """What an action allocates on the CPU: what it leaves behind, and its peak beyond that.

    Memory that the action frees without having allocated it is not seen.
    """
    gc.collect()
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        action()
        gc.collect()
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    levels = list(accumulate((event.nbytes() for event in events if event.name() == "[memory]"), initial=0))
    return Peak(levels[-1], max(levels) - levels[-1])


def _warm_up(contender: Contender) -> None:
    for _ in range(WARMUP):
        contender.step()
    gc.collect()


def _used(model: nn.Module, shared: nn.Module) -> int:
    """Bytes of the shared tensors that a model uses."""
    mine = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    theirs = {tensor.data_ptr(): tensor.nbytes for tensor in (*shared.parameters(), *shared.buffers())}
    return sum(nbytes for address, nbytes in theirs.items() if address in mine)
