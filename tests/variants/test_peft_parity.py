"""The same numbers as PEFT, which shares no line with us: outputs, every gradient, fifty optimiser steps."""

import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

peft = pytest.importorskip("peft")

EXACT = {"rtol": 1e-10, "atol": 1e-11}
FLAGS = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}, "adalora": None}
NAMES = {
    "A": "lora_A", "B": "lora_B", "Q": "lora_A", "P": "lora_B", "L": "lora_E", "m": "lora_magnitude_vector",
}  # fmt: skip


def theirs(layer, kind, *, transposed, dropout=0.0, alpha=4.0, r=3):
    """PEFT's layer over the same base, holding the same numbers as the first run of ours."""
    from transformers.pytorch_utils import Conv1D

    plain = Conv1D(5, 7) if transposed else nn.Linear(7, 5)
    plain = plain.double()
    plain.weight.data.copy_(layer.base.shown())
    plain.bias.data.copy_(layer.bias)
    if FLAGS[kind] is None:  # PEFT divides by the rank plus 1e-5
        config = peft.AdaLoraConfig(
            init_r=r, target_r=r - 1, lora_alpha=alpha * (r + 1e-5) / r, total_step=100,
            target_modules=["0"], lora_dropout=dropout, fan_in_fan_out=transposed,
        )  # fmt: skip
    else:
        config = peft.LoraConfig(
            r=r, lora_alpha=alpha, target_modules=["0"], lora_dropout=dropout, fan_in_fan_out=transposed,
            **FLAGS[kind],
        )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(nn.Sequential(plain), config).double()
    module = wrapped.base_model.model[0]
    for name, ours in parameters(layer).items():
        their_parameter(module, name).data.copy_(ours.detach()[0].view_as(their_parameter(module, name)))
    return module


def parameters(layer):
    delta = layer.held[0].delta
    return {name: getattr(delta, name) for name in delta.roles}


def their_parameter(module, name):
    found = getattr(module, NAMES[name])["default"]
    return found.weight if isinstance(found, nn.Module) else found


@pytest.fixture(params=[False, True], ids=["linear", "conv1d"])
def transposed(request):
    return request.param


@pytest.fixture(params=list(FLAGS))
def kind(request):
    return request.param


@pytest.fixture
def pair_of(kind, transposed, layer_of):
    """A layer of ours and its module of PEFT: `pair_of(dropout=0.4)`."""

    def make(dropout=0.0):
        delta, scaling = ("lora", "alpha_over_sqrt_r") if kind == "rslora" else (kind, "alpha_over_r")
        layer = layer_of(delta, scaling=scaling, transposed=transposed, dropout=dropout)
        return layer, theirs(layer, kind, transposed=transposed, dropout=dropout)

    return make


@pytest.fixture
def assert_same(gradients):
    """Output, the gradient of x and those of all parameters are the same in a layer and a module of PEFT."""

    def check(layer, module, x):
        y, dx, grads = gradients(layer, x)
        y2, dx2, _ = gradients(module, x)
        assert_close(y, y2, **EXACT)
        assert_close(dx, dx2, **EXACT)
        for name in parameters(layer):
            ours, other = grads[f"deltas.0.{name}"][0], their_parameter(module, name).grad
            assert_close(ours, other.view_as(ours), **EXACT)

    return check


def test_outputs_and_every_gradient_are_those_of_peft(pair_of, rows, assert_same):
    assert_same(*pair_of(), rows())


def test_fifty_optimiser_steps_end_where_peft_ends(pair_of):
    layer, module = pair_of()
    mine = list(parameters(layer).values())
    other = [their_parameter(module, name) for name in parameters(layer)]
    source = torch.Generator().manual_seed(7)
    optimisers = [torch.optim.AdamW(ps, lr=1e-2, weight_decay=0.0) for ps in (mine, other)]
    for _ in range(50):
        x = torch.randn(4, 7, generator=source, dtype=torch.float64)
        target = torch.randn(4, 5, generator=source, dtype=torch.float64)
        for model, optimiser in zip((layer, module), optimisers, strict=True):
            optimiser.zero_grad()
            (model(x) - target).square().mean().backward()
            optimiser.step()
    for ours, theirs_ in zip(mine, other, strict=True):
        assert_close(ours.detach()[0], theirs_.detach().view_as(ours[0]), rtol=1e-8, atol=1e-9)


def test_with_one_mask_dropout_is_that_of_peft(pair_of, rows, assert_same):
    layer, module = (side.train() for side in pair_of(dropout=0.4))
    x = rows()
    slot, held = layer.held[0].delta.slots[0], layer.held[0].delta
    mask = held._mask(slot, x.detach().view(1, -1, 7)).view(x.shape)
    assert 0 < (mask == 0).double().mean() < 1
    module.lora_dropout["default"] = Multiply(mask)
    assert_same(layer, module, x)


class Multiply(nn.Dropout):
    """A dropout layer whose mask is given."""

    def __init__(self, mask):
        super().__init__(0.4)
        self.mask = mask

    def forward(self, x):
        return x * self.mask


def test_lora_plus_steps_as_its_authors_optimiser_on_peft(layer_of, transposed):
    """PEFT carries the authors' grouping. Ours goes by role; on a plain LoRA layer both are the same."""
    from peft.optimizers import create_loraplus_optimizer
    from torch.optim import AdamW

    from variants import RunConfig, rates

    layer = layer_of("lora", transposed=transposed)
    module = theirs(layer, "lora", transposed=transposed)
    run = RunConfig(0, axes={"grouping": "lora_plus"}, options={"lr_ratio": 8.0})
    mine = rates(run, 1e-2, None, 0.1)
    delta = layer.held[0].delta
    groups = [
        {"params": [getattr(delta, name)], "lr": mine[role][0], "weight_decay": mine[role][1]}
        for name, role in delta.roles.items()
    ]
    other = create_loraplus_optimizer(
        nn.Sequential(module), AdamW, lr=1e-2, loraplus_lr_ratio=8.0, loraplus_weight_decay=0.1,
        weight_decay=0.1,
    )  # fmt: skip
    ours = AdamW(groups)
    source = torch.Generator().manual_seed(7)
    for _ in range(50):
        x = torch.randn(4, 7, generator=source, dtype=torch.float64)
        for model, optimiser in ((layer, ours), (module, other)):
            optimiser.zero_grad()
            model(x).square().mean().backward()
            optimiser.step()
    for name in parameters(layer):
        assert_close(
            parameters(layer)[name].detach()[0], their_parameter(module, name).detach(), rtol=1e-8, atol=1e-9
        )
