"""AdaLoRA's triplets: where they start, their scale, and the penalty that keeps P and Q orthogonal."""

import torch
from torch.testing import assert_close

from variants import RunConfig, attach

EXACT = {"rtol": 1e-9, "atol": 1e-12}
AXES = {"delta": "adalora", "controller": "adalora_budget"}


def test_the_penalty_is_the_mean_of_plain_norms_over_all_factors(build, settings, triplets):
    gammas = [0.1, 0.5]
    runs = [settings(seed=k, orth_weight=g) for k, g in enumerate(gammas)]
    attached = build(runs)
    for k, gamma in enumerate(gammas):
        norms = []
        for t in triplets(attached, k):
            for gap in (t["P"].T @ t["P"], t["Q"] @ t["Q"].T):
                norms.append((gap - torch.eye(3, dtype=torch.float64)).square().sum().sqrt())
        assert_close(attached.penalty()[k].detach(), gamma * sum(norms) / len(norms), **EXACT)


def test_the_penalty_is_not_the_papers_sum_of_squares(build, settings, triplets):
    """R = ||P'P - I||_F^2 + ||QQ' - I||_F^2 of every layer there; the authors' code, and PEFT, as above."""
    attached = build([settings(orth_weight=0.3)])
    squares = [
        sum(float(x) ** 2 for x in (gram - torch.eye(3, dtype=torch.float64)).flatten())
        for t in triplets(attached)
        for gram in (t["P"].T @ t["P"], t["Q"] @ t["Q"].T)
    ]
    code, paper = 0.3 * sum(s**0.5 for s in squares) / len(squares), 0.3 * sum(squares)
    assert_close(float(attached.penalty()[0]), code, **EXACT)
    assert paper > 5 * code


def test_orthonormal_factors_have_no_penalty_and_no_broken_gradient(build, settings, triplets):
    attached = build([settings()])
    for t in triplets(attached):
        t["Q"].copy_(torch.eye(*t["Q"].shape))
        t["P"].copy_(torch.eye(*t["P"].shape))
    attached.penalty().sum().backward()
    assert attached.penalty().item() == 0
    assert all(p.grad.isfinite().all() for p in attached.model.parameters() if p.grad is not None)


def test_singular_values_start_at_zero_factors_at_their_own_draws(build, settings, triplets):
    attached = build([settings(seed=3)], shapes=[(400, 300)] * 4)
    for t in triplets(attached):
        assert t["L"].count_nonzero() == 0
        assert abs(float(t["P"].std()) - 0.02) < 0.002 and abs(float(t["Q"].std()) - 0.02) < 0.002
    assert not torch.equal(triplets(attached)[0]["P"], triplets(attached)[3]["P"])


def test_at_the_start_only_the_singular_values_get_a_gradient_from_the_task(layer_of, rows, gradients):
    layer = layer_of("adalora", moved=False)
    *_, grads = gradients(layer, rows())
    assert grads["deltas.0.L"].count_nonzero() == 3
    assert grads["deltas.0.P"].count_nonzero() == grads["deltas.0.Q"].count_nonzero() == 0


def test_the_scale_is_that_of_the_rank_it_starts_with(tiny_model):
    run = RunConfig(0, r=3, alpha=10.0, axes=AXES, steps=10, options={"init_r_ratio": 1.5})
    attached = attach(tiny_model("bert"), [run])
    assert attached.summary(0)["rank"] == 5 and attached.summary(0)["scale"] == 10 / 5
