"""Peak memory against allocations that are known, the same each time."""

import pytest
import torch
from torch import nn

from experiments.bench.contenders import Contender
from experiments.bench.memory import Peak, peak

KB = 1024


class Known:
    """A step that holds 8 kB more after it was built, and for a moment 5 kB, then 3 kB."""

    def __init__(self, model):
        self.model, self.kept = model, torch.ones(2 * KB)

    def step(self):
        first = torch.ones(KB)
        del first
        second, third = torch.ones(KB), torch.ones(KB // 4)
        del second, third


def test_what_is_held_and_what_a_step_adds_are_counted_to_the_byte():
    shared = nn.Linear(10, 10, bias=False)  # 400 bytes, used by the contender
    shared.unused = nn.Parameter(torch.ones(100))
    model = nn.Linear(10, 10, bias=False, device="meta")
    model.weight = shared.weight

    def make():
        known = Known(model)
        return Contender(model, known.step)

    assert peak(make, shared=shared) == Peak(held=8 * KB + 400, step=5 * KB)
    assert peak(make, shared=shared).total == 13 * KB + 400


def test_it_is_the_same_each_time(work):
    pytest.importorskip("peft")
    from experiments.bench import contenders

    def measured():
        return peak(lambda: contenders.ours(work, "dora", r=3, targets="all"), shared=work.model)

    assert measured() == measured()


@pytest.mark.gpu
def test_on_a_gpu_the_allocator_is_asked():
    shared = nn.Linear(256, 256, bias=False, device="cuda")
    kept = []

    def make():
        kept.append(torch.ones(2**20, device="cuda"))
        return Contender(shared, lambda: torch.ones(2**21, device="cuda").sum())

    found = peak(make, shared=shared)
    assert found.held == 4 * 2**20 + shared.weight.nbytes
    assert 8 * 2**20 <= found.step < 9 * 2**20
