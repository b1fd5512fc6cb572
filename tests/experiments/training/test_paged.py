"""Paged moments: the same steps as plain ones, in memory that the GPU's allocator does not count."""

import pytest
import torch

from experiments.training.adamw import AdamSettings, PackedAdamW
from experiments.training.paged import paged_zeros_like
from variants import Trained


def optimiser(device, *, paged):
    draw = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(2, 301, generator=draw).to(device))
    rates = [{"in": (1e-2, 0.1)}, {"in": (3e-3, 0.0)}]
    trained = [Trained("layer.A", parameter, "in", slice(0, 2))]
    return PackedAdamW(trained, rates=rates, settings=[AdamSettings()] * 2, paged=paged), parameter


def steps(optimiser, parameter, count):
    draw = torch.Generator().manual_seed(1)
    for _ in range(count):
        optimiser.zero_grad()
        parameter.grad = torch.randn(2, 301, generator=draw).to(parameter.device)
        optimiser.clip(optimiser.grad_norm())
        everyone = torch.ones(2, device=parameter.device)
        optimiser.step(everyone, everyone.bool())
    return parameter.detach().clone()


def test_on_a_cpu_the_moments_are_plain_and_it_says_so():
    asked, plain = (optimiser("cpu", paged=paged) for paged in (True, False))
    assert asked[0].described == plain[0].described == "AdamW, moments in 32 bits"
    assert torch.equal(steps(*asked, 5), steps(*plain, 5))


def test_other_memory_than_a_gpus_is_refused():
    with pytest.raises(ValueError, match=r"for float32 on a GPU, not torch\.float32 on cpu"):
        paged_zeros_like(torch.zeros(3))


@pytest.mark.gpu
def test_on_a_gpu_paged_moments_give_the_same_bits():
    pytest.importorskip("bitsandbytes")
    asked, plain = (optimiser("cuda", paged=paged) for paged in (True, False))
    assert asked[0].described == "AdamW, moments in 32 bits, paged"
    assert torch.equal(steps(*asked, 5), steps(*plain, 5))
    saved = asked[0].state_dict()
    steps(*asked, 3)
    asked[0].load_state_dict({"steps": saved["steps"], "flats": saved["flats"]})


@pytest.mark.gpu
def test_paged_memory_is_zero_outside_the_allocator_and_used_again():
    pytest.importorskip("bitsandbytes")
    like = torch.ones(7, 1001, device="cuda")
    before = torch.cuda.memory_allocated()
    first = paged_zeros_like(like)
    assert torch.cuda.memory_allocated() == before
    assert first.shape == like.shape and first.device == like.device and not first.any()
    first += 1
    address = first.data_ptr()
    del first
    again = paged_zeros_like(like)
    assert again.data_ptr() == address and not again.any()
