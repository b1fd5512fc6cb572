"""rsLoRA's promise about gradients, LoRA+'s grouping by role, and what decays."""

import math

import pytest
import torch

from variants import RunConfig, UnknownPart, attach, get, names, rates


@pytest.mark.parametrize(("scaling", "slope"), [("alpha_over_r", -0.5), ("alpha_over_sqrt_r", 0.0)])
def test_the_gradient_of_b_falls_with_the_rank_only_under_alpha_over_r(scaling, slope, layer_of):
    ranks, logs = [4, 8, 16, 32, 64, 128], []
    source = torch.Generator().manual_seed(0)
    x = torch.randn(64, 256, generator=source, dtype=torch.float64)
    dy = torch.randn(64, 255, generator=source, dtype=torch.float64)
    for r in ranks:
        norms = []
        for seed in range(4):
            layer = layer_of(
                "lora", scaling=scaling, d_in=256, d_out=255, r=r, alpha=16.0, seeds=[seed], moved=False
            )
            layer(x).backward(dy)
            norms.append(float(layer.deltas[0].B.grad.norm()))
        logs.append(math.log(sum(norms) / len(norms)))
    n = len(ranks)
    u = [math.log(r) for r in ranks]
    fitted = (n * sum(a * b for a, b in zip(u, logs, strict=True)) - sum(u) * sum(logs)) / (
        n * sum(a * a for a in u) - sum(u) ** 2
    )
    assert abs(fitted - slope) < 0.03


def test_the_two_scalings_meet_at_rank_one_and_differ_by_a_square_root():
    plain, stable = get("scaling", "alpha_over_r"), get("scaling", "alpha_over_sqrt_r")
    assert plain(16, 1) == stable(16, 1) == 16
    assert stable(16, 16) == plain(16 * 4, 16)
    assert get("scaling", "constant")(16, 4) == get("scaling", "constant")(16, 1) == 16


@pytest.mark.parametrize("kind", ["kaiming", "gaussian"])
def test_the_variance_of_a_does_not_depend_on_the_rank(kind, layer_of):
    spread = {
        r: float(
            layer_of("lora", d_in=512, d_out=511, r=r, moved=False, options={"init": kind})
            .deltas[0]
            .A.detach()
            .var()
        )
        for r in (4, 256)
    }
    expected = 1 / (3 * 512) if kind == "kaiming" else 1 / 512
    assert all(abs(v / expected - 1) < 0.08 for v in spread.values())


def test_an_unknown_initialisation_is_refused(layer_of):
    with pytest.raises(UnknownPart, match=r"no init named 'pisa'\. Did you mean 'pissa'"):
        layer_of("lora", options={"init": "pisa"})


ROLES = {"in", "out", "diag", "weight", "magnitude", "scale", "bias", "head", "head_bias"}


@pytest.mark.parametrize("grouping", names("grouping"))
def test_every_role_has_a_rate_and_vectors_do_not_decay(grouping):
    found = rates(RunConfig(0, axes={"grouping": grouping}), 1e-3, 1e-2, 0.1)
    assert set(found) == ROLES
    assert {role for role, (_, decay) in found.items() if decay == 0} == {
        "magnitude",
        "scale",
        "bias",
        "head_bias",
    }
    assert {decay for _, decay in found.values()} == {0.0, 0.1}
    assert found["head"] == (1e-2, 0.1) and found["head_bias"] == (1e-2, 0.0)


def test_without_a_rate_of_its_own_the_head_learns_at_lr():
    assert rates(RunConfig(0), 1e-3)["head"] == (1e-3, 0.0)


def test_lora_plus_gives_the_high_rate_to_b_alone():
    run = RunConfig(0, axes={"grouping": "lora_plus"}, options={"lr_ratio": 4.0})
    plus, plain = rates(run, 1e-3, 1e-2, 0.1), rates(RunConfig(0), 1e-3, 1e-2, 0.1)
    assert plus["out"] == (4e-3, 0.1)
    assert {role: plus[role] for role in ROLES - {"out"}} == {role: plain[role] for role in ROLES - {"out"}}


def test_lora_plus_with_ratio_one_is_lora():
    run = RunConfig(0, axes={"grouping": "lora_plus"}, options={"lr_ratio": 1.0})
    assert rates(run, 1e-3, 1e-2, 0.1) == rates(RunConfig(0), 1e-3, 1e-2, 0.1)


def test_a_ratio_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="lr_ratio 0 must be positive"):
        rates(RunConfig(0, axes={"grouping": "lora_plus"}, options={"lr_ratio": 0}), 1e-3)


def test_roles_are_declared_not_guessed_from_names(tiny_model):
    runs = [RunConfig(k, r=2, axes={"delta": delta}) for k, delta in enumerate(names("delta"))]
    attached = attach(tiny_model("bert"), runs)
    assert {t.role for t in attached.trained} == {"in", "out", "diag", "magnitude", "head", "head_bias"}
    assert {id(t.parameter) for t in attached.trained} == {
        id(p) for p in attached.model.parameters() if p.requires_grad
    }
    assert all(t.parameter.shape[0] == t.runs.stop - t.runs.start for t in attached.trained)
    named = dict(attached.model.named_parameters())
    assert all(named[t.name] is t.parameter for t in attached.trained)
