"""Layers side by side under AdaLoRA in float64, and how they are trained."""

import warnings

import pytest
import torch
from torch import nn

from variants import AdaptedLinear, Clock, RunConfig, Slot, get
from variants._core.attach import Attached
from variants._core.base import DenseBase

SHAPES = [(7, 5), (5, 9), (9, 7), (7, 5)]


@pytest.fixture
def settings():
    """One run of AdaLoRA by its steps, seed, target rank and the variant's options; it starts at 1.5 r."""

    def make(steps=40, *, seed=0, r=2, **options):
        axes = {"delta": "adalora", "controller": "adalora_budget"}
        options = {"init_r_ratio": 1.5, **options}
        return RunConfig(seed, r=r, alpha=4.0, axes=axes, steps=steps, options=options)

    return make


def layers_of(runs, shapes, clock):
    """Name -> layer, each adapted by all runs."""
    layers = {}
    for i, (d_in, d_out) in enumerate(shapes):
        base = DenseBase(torch.randn(d_out, d_in, dtype=torch.float64))
        layer = AdaptedLinear(base, None, name=f"m{i}", runs=len(runs))
        ranks = {k: get("delta", "adalora").initial_rank(run.r, run.options) for k, run in enumerate(runs)}
        for k, run in enumerate(runs):
            slot = Slot(f"m{i}", run.seed, ranks[k], run.alpha / ranks[k], 0.0, run.r, run.options)
            layer.hold(slice(k, k + 1), None, get("delta", "adalora")(base, [slot], clock=clock), base)
        layers[f"m{i}"] = layer
    return layers


@pytest.fixture
def build():
    """Layers side by side, all adapted by all runs, with the controllers of the real method."""

    def make(runs, shapes=SHAPES, seed=0):
        torch.manual_seed(seed)
        clock = Clock()
        layers = layers_of(runs, shapes, clock)
        attached = Attached(nn.ModuleList(layers.values()), tuple(runs), [], clock=clock, layers=layers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attached.controllers = {
                k: get("controller", "adalora_budget")(run, attached.slots(k)) for k, run in enumerate(runs)
            }
        return attached

    return make


@pytest.fixture
def triplets():
    """P, L and Q of each layer as one of the runs has them: views, so that a test may write into them."""

    def of(attached, k=0):
        return [{n: getattr(h.delta, n).data[i] for n in "PLQ"} for h, i in attached.slots(k).values()]

    return of


def loss_of(attached, source):
    """The sum of squares between what the layers say and random targets."""
    total, rows = 0, 3 * len(attached.runs)
    for layer in attached.layers.values():
        x = torch.randn(rows, layer.base.d_in, generator=source, dtype=torch.float64)
        y = torch.randn(rows, layer.base.d_out, generator=source, dtype=torch.float64)
        total = total + (layer(x) - y).square().sum()
    return total


@pytest.fixture
def train():
    """Steps towards random targets; a test's own `each(step)` takes the place of `after_step`."""

    def run(attached, steps, each=None, *, start=0, optimiser=None, source=None):
        optimiser = optimiser or torch.optim.AdamW(attached.model.parameters(), lr=3e-2, weight_decay=0.0)
        source = source or torch.Generator().manual_seed(11)
        each = each or attached.after_step
        for step in range(start, steps):
            attached.clock.step = step
            attached.before_step()
            (loss_of(attached, source) + attached.penalty().sum()).backward()
            optimiser.step()
            each(step)
            optimiser.zero_grad()
        return optimiser, source

    return run
