"""AdamW over the run axis against K ordinary torch.optim.AdamW, one per run."""

import pytest
import torch

from experiments.training.adamw import AdamSettings, PackedAdamW
from variants import Trained

RATES = [
    {"in": (1e-2, 0.1), "out": (8e-2, 0.1), "head": (3e-2, 0.0)},
    {"in": (3e-3, 0.0), "out": (3e-3, 0.0), "head": (1e-3, 0.2)},
    {"in": (2e-2, 0.3), "out": (1e-2, 0.3), "head": (5e-3, 0.0)},
]
SETTINGS = [
    AdamSettings(0.9, 0.999, 1e-8, 0.7),
    AdamSettings(0.8, 0.99, 1e-6, 0.0),
    AdamSettings(0.9, 0.95, 1e-8, 50.0),
]
SHAPES = {"in": (slice(0, 3), (3, 5, 7)), "out": (slice(1, 3), (2, 11, 5)), "head": (slice(0, 3), (3, 13))}


@pytest.fixture
def trained():
    draw = torch.Generator().manual_seed(0)
    return [
        Trained(
            name=f"layer.{role}",
            parameter=torch.nn.Parameter(torch.randn(shape, generator=draw)),
            role=role,
            runs=runs,
        )
        for role, (runs, shape) in SHAPES.items()
    ]


def own_tensors(trained, k):
    return {
        t.role: t.parameter.detach()[k - t.runs.start].clone()
        for t in trained
        if t.runs.start <= k < t.runs.stop
    }


def gradients(trained, step):
    draw = torch.Generator().manual_seed(100 + step)
    return [torch.randn(t.parameter.shape, generator=draw) for t in trained]


def test_each_run_takes_the_steps_of_its_own_adamw(trained):
    start = [own_tensors(trained, k) for k in range(3)]
    packed = PackedAdamW(trained, rates=RATES, settings=SETTINGS)
    alone = []
    for k in range(3):
        tensors = {role: torch.nn.Parameter(value) for role, value in start[k].items()}
        groups = [
            {"params": [p], "lr": RATES[k][role][0], "weight_decay": RATES[k][role][1]}
            for role, p in tensors.items()
        ]
        s = SETTINGS[k]
        alone.append((tensors, torch.optim.AdamW(groups, betas=(s.beta1, s.beta2), eps=s.eps)))
    for step in range(25):
        packed.zero_grad()
        factor = torch.tensor([1.0, 0.5, 1 - step / 25])
        grads = gradients(trained, step)
        for t, grad in zip(trained, grads, strict=True):
            t.parameter.grad = grad.clone()
        norm = packed.grad_norm()
        packed.clip(norm)
        packed.step(factor, torch.ones(3, dtype=torch.bool))
        for k, (tensors, optimiser) in enumerate(alone):
            for t, grad in zip(trained, grads, strict=True):
                if t.role in tensors:
                    tensors[t.role].grad = grad[k - t.runs.start].clone()
            limit = SETTINGS[k].clip or float("inf")
            expected = torch.nn.utils.clip_grad_norm_(tensors.values(), limit)
            assert norm[k].item() == pytest.approx(expected.item(), rel=1e-6)
            for group, role in zip(optimiser.param_groups, tensors, strict=True):
                group["lr"] = RATES[k][role][0] * factor[k].item()
            optimiser.step()
    for k, (tensors, _) in enumerate(alone):
        for role, value in own_tensors(trained, k).items():
            torch.testing.assert_close(value, tensors[role].detach(), rtol=2e-5, atol=2e-6)


def test_a_run_of_nan_stands_still_and_leaves_the_others_bit_identical(trained):
    start = [own_tensors(trained, k) for k in range(3)]
    twin = [
        Trained(
            name=t.name, parameter=torch.nn.Parameter(t.parameter.detach().clone()), role=t.role, runs=t.runs
        )
        for t in trained
    ]
    healthy, poisoned = (PackedAdamW(ts, rates=RATES, settings=SETTINGS) for ts in (trained, twin))
    alive = torch.tensor([True, False, True])
    for step in range(4):
        for ts, packed in ((trained, healthy), (twin, poisoned)):
            packed.zero_grad()
            for t, grad in zip(ts, gradients(ts, step), strict=True):
                if ts is twin and t.runs.start <= 1 < t.runs.stop:
                    grad[1 - t.runs.start] = float("nan")
                t.parameter.grad = grad.clone()
            packed.clip(packed.grad_norm())
            packed.step(torch.ones(3), alive if ts is twin else torch.ones(3, dtype=torch.bool))
    for k in (0, 2):
        for role, value in own_tensors(twin, k).items():
            assert torch.equal(value, own_tensors(trained, k)[role])
    for role, value in own_tensors(twin, 1).items():
        assert torch.equal(value, start[1][role])


def test_a_restored_optimiser_goes_on_to_the_same_bits(trained):
    packed = PackedAdamW(trained, rates=RATES, settings=SETTINGS)
    alive = torch.ones(3, dtype=torch.bool)

    def advance(steps):
        for step in steps:
            packed.zero_grad()
            for t, grad in zip(trained, gradients(trained, step), strict=True):
                t.parameter.grad = grad.clone()
            packed.step(torch.ones(3), alive)

    advance(range(5))
    saved = {
        "steps": packed.state_dict()["steps"].clone(),
        "flats": [tuple(t.clone() for t in flat) for flat in packed.state_dict()["flats"]],
    }
    advance(range(5, 9))
    uninterrupted = [own_tensors(trained, k) for k in range(3)]
    packed.load_state_dict(saved)
    advance(range(5, 9))
    for k in range(3):
        for role, value in own_tensors(trained, k).items():
            assert torch.equal(value, uninterrupted[k][role])


def test_a_role_without_a_rate_is_refused(trained):
    incomplete = [{role: rate for role, rate in each.items() if role != "head"} for each in RATES]
    with pytest.raises(KeyError, match="head"):
        PackedAdamW(trained, rates=incomplete, settings=SETTINGS)


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_the_norm_of_many_elements_is_theirs(mean):
    """A sum of 2^24 squares one after another is off by 7e-4; odd sizes leave a rest beside whole chunks."""
    draw = torch.Generator().manual_seed(0)
    gradients = [mean + torch.randn(1, size, generator=draw) for size in ((1 << 24) + 5, 70_001)]
    trained = [
        Trained(name=role, parameter=torch.nn.Parameter(torch.zeros_like(grad)), role=role, runs=slice(0, 1))
        for role, grad in zip(("in", "out"), gradients, strict=True)
    ]
    packed = PackedAdamW(trained, rates=RATES[:1], settings=SETTINGS[:1])
    for t, grad in zip(trained, gradients, strict=True):
        t.parameter.grad = grad
    exact = [grad.double().norm().item() for grad in gradients]
    assert packed.grad_norm().item() == pytest.approx((exact[0] ** 2 + exact[1] ** 2) ** 0.5, rel=1e-6)
    for role, norm in zip(("in", "out"), exact, strict=True):
        assert packed.role_norms()[role].item() == pytest.approx(norm, rel=1e-6)
