"""What every delta must do on every storage at every scaling: one battery, run over the registry."""

import itertools

import pytest
import torch
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from variants import names

EXACT = {"rtol": 1e-10, "atol": 1e-11}
STORAGES = ["fp64", "bf16", "nf4", "int4"]
STARTED = [f"{delta}+pissa" for delta in ("lora", "dora")]  # with a start that is subtracted
DELTAS = [*names("delta"), *STARTED]
GRID = [
    (delta, scaling, storage, runs)
    for delta, scaling, storage, runs in itertools.product(DELTAS, names("scaling"), STORAGES, [1, 3])
    if delta == "lora" or scaling == "alpha_over_r"  # the scale is a number to a delta, whatever its rule
]


@pytest.fixture(params=GRID, ids=lambda p: "-".join(map(str, p)))
def case(request, layer_of, rows):
    """(a layer away from its start, its input)."""
    delta, scaling, storage, runs = request.param
    return layer_of(delta, scaling=scaling, storage=storage, runs=runs), rows(runs)


def dense(layer, x):
    """The layer by its definition: multiply by W' and add the bias, all of it differentiable."""
    held = layer.held[0]
    weights = held.delta.weight(layer.base)
    bias = 0 if layer.bias is None else layer.bias.to(x.dtype)
    split = x.view(layer.runs, -1, *x.shape[1:])
    return torch.cat([part @ weight.mT + bias for part, weight in zip(split, weights, strict=True)])


def in_double(layer):
    """Parameters of deltas on a quantised base are float32; float64 here, for a sharp comparison."""
    for p in layer.deltas.parameters():
        p.data = p.data.double()
    for delta in layer.deltas:
        delta.scale = delta.scale.double()
    return layer


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("delta", DELTAS)
def test_starts_at_the_pretrained_map(delta, storage, layer_of, rows):
    layer = layer_of(delta, storage=storage, runs=3)
    fresh = layer_of(delta, storage=storage, runs=3, moved=False)
    x = rows(3)
    frozen = fresh.base.linear(x) + fresh.bias.to(x.dtype)
    if delta == "adalora":  # P and Q are drawn, the singular values between them are zero
        assert fresh.held[0].delta.L.count_nonzero() == 0
    rounded = delta == "delora" and storage != "fp64"  # its start is subtracted in float32
    close = 1e-5 if rounded else 1e-14
    assert_close(fresh(x), frozen, rtol=close, atol=close)
    assert not torch.allclose(layer(x), frozen)


def test_forward_is_multiplication_by_the_weight(case):
    layer, x = case
    in_double(layer)
    W = layer.held[0].delta.weight(layer.base)
    assert W.shape == (layer.runs, 5, 7)
    split = x.view(layer.runs, -1, 3, 7)
    expected = torch.cat([part @ weight.mT for part, weight in zip(split, W, strict=True)]) + layer.bias
    assert_close(layer(x), expected, **EXACT)


def test_every_gradient_is_that_of_the_dense_form(case, gradients):
    layer, x = case
    in_double(layer)
    y, dx, grads = gradients(layer, x)
    y2, dx2, grads2 = gradients(layer, x, out=dense(layer, x))
    assert_close(y, y2, **EXACT)
    assert_close(dx, dx2, **EXACT)
    assert grads.keys() == grads2.keys()
    assert {name.rpartition(".")[2] for name in grads} == set(layer.held[0].delta.roles)
    for name, grad in grads.items():
        assert_close(grad, grads2[name], msg=lambda text, name=name: f"{name}: {text}", **EXACT)


def test_the_readable_path_and_the_fused_one_agree(case, gradients):
    layer, x = case
    in_double(layer)
    shape = x.shape
    delta = layer.held[0].delta
    x3 = x.view(layer.runs, -1, shape[-1])
    slow = delta(x3, layer.base.linear(x3), layer.base).view(*shape[:-1], -1) + layer.bias
    one, two = gradients(layer, x), gradients(layer, x, out=slow)
    assert_close(one, two, **EXACT)


def test_only_the_delta_learns(case, gradients):
    layer, x = case
    before = layer.base.weight().clone()
    trained = {name for name, p in layer.named_parameters() if p.requires_grad}
    assert trained == {f"deltas.0.{name}" for name in layer.held[0].delta.roles}
    *_, grads = gradients(layer, x)
    assert set(grads) == trained
    assert all(grad.count_nonzero() for grad in grads.values())
    assert torch.equal(layer.base.weight(), before)


def test_a_layer_below_which_nothing_learns_gives_no_gradient_to_its_input(layer_of, rows):
    layer = layer_of("lora")
    x = rows().detach()
    layer(x).sum().backward()
    assert x.grad is None
    assert layer.deltas[0].A.grad is not None


def test_eval_changes_no_arithmetic(case):
    layer, x = case
    assert torch.equal(layer.train()(x), layer.eval()(x))


def test_parameters_may_live_in_one_flat_buffer(case, gradients, rehome):
    layer, x = case
    expected = gradients(layer, x)
    parameters = [p for p in layer.parameters() if p.requires_grad]
    flat = rehome(parameters)
    assert_close(gradients(layer, x), expected, **EXACT)
    flat.mul_(1.1)  # an optimiser writes to the buffer; layers learn of it by expire, or by the next refresh
    layer.held[0].delta.expire(layer.held)
    moved = layer(x)
    layer.held[0].delta.refresh(layer.held)
    assert torch.equal(layer(x), moved)
    assert not torch.allclose(moved, expected[0])


def test_gradient_checkpointing_changes_nothing(case, gradients):
    layer, x = case
    plain = gradients(layer, x)
    again = gradients(layer, x, out=checkpoint(layer, x, use_reentrant=False))
    for a, b in zip(plain[:2], again[:2], strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(grad, again[2][name]) for name, grad in plain[2].items())


@pytest.mark.parametrize("storage", ["fp32", "bf16", "nf4"])
@pytest.mark.parametrize("delta", DELTAS)
def test_under_autocast_products_are_bfloat16_and_gradients_stay_wide(
    delta, storage, layer_of, rows, gradients
):
    layer = layer_of(delta, storage=storage, runs=3, d_in=21, d_out=15)
    for p in layer.parameters():
        p.data = p.data.float()
    layer.held[0].delta.scale = layer.held[0].delta.scale.float()
    x = rows(3, d_in=21, dtype=torch.float32)
    y, dx, grads = gradients(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
    y16, dx16, grads16 = gradients(layer, x, out=half)
    assert y16.dtype == torch.bfloat16
    assert dx16.dtype == torch.float32
    assert {g.dtype for g in grads16.values()} == {torch.float32}
    for wide, narrow in [(y, y16.float()), (dx, dx16), *((grads[n], grads16[n]) for n in grads)]:
        assert (wide - narrow).norm() <= 0.03 * wide.norm()


def test_a_nan_in_one_run_leaves_the_others_bit_identical(layer_of, rows, gradients):
    for delta in DELTAS:
        layer, x = layer_of(delta, runs=3), rows(3)
        y, dx, grads = gradients(layer, x)
        for p in layer.parameters():
            if p.requires_grad:
                p.data[1] = float("nan")
        layer.held[0].delta.expire(layer.held)
        y2, dx2, grads2 = gradients(layer, x)
        for before, after in [(y, y2), (dx, dx2)]:
            before, after = before.view(3, -1), after.view(3, -1)
            assert torch.equal(before[0], after[0]) and torch.equal(before[2], after[2])
            assert after[1].isnan().any()
        for name in grads:
            assert torch.equal(grads[name][[0, 2]], grads2[name][[0, 2]])


def test_a_run_of_a_stack_equals_the_run_alone(layer_of, rows, gradients):
    for delta in DELTAS:
        stacked, x = layer_of(delta, runs=3), rows(3)
        y, dx, grads = gradients(stacked, x)
        for k in range(3):
            alone = layer_of(delta, seeds=[k])
            y1, dx1, grads1 = gradients_of_rows(alone, x, k)
            assert_close(y[2 * k : 2 * k + 2], y1, **EXACT)
            assert_close(dx[2 * k : 2 * k + 2], dx1, **EXACT)
            for name in grads:
                assert_close(grads[name][k : k + 1], grads1[name], **EXACT)


def gradients_of_rows(layer, x, k):
    """As `gradients`, on the rows of run k and with the same output gradient that the pack had there."""
    part = x.detach()[2 * k : 2 * k + 2].clone().requires_grad_()
    y = layer(part)
    source = torch.Generator().manual_seed(3)
    dy = torch.randn((len(x), *y.shape[1:]), generator=source, dtype=torch.float64)
    y.backward(dy[2 * k : 2 * k + 2])
    return y.detach(), part.grad, {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}


def test_a_model_may_add_to_the_output_in_place(layer_of, rows, gradients):
    for delta in ("lora", "adalora"):
        layer, x = layer_of(delta, runs=2), rows(2)
        expected = gradients(layer, x, out=layer(x) + 1)
        y = layer(x)
        y += 1
        assert_close(gradients(layer, x, out=y), expected, **EXACT)


def test_an_output_that_dora_still_needs_is_guarded_by_autograd(layer_of, rows):
    y = layer_of("dora")(rows())
    y += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_each_run_may_have_its_own_alpha(layer_of, rows):
    layer = layer_of("lora", runs=2)
    delta = layer.held[0].delta
    delta.scale, delta.number = torch.tensor([1.0, 5.0], dtype=torch.float64)[:, None, None], None
    x = rows(2)
    W = layer.base.weight()
    for k, s in enumerate([1.0, 5.0]):
        expected = x[2 * k : 2 * k + 2] @ (W + s * delta.B[k] @ delta.A[k]).T + layer.bias
        assert_close(layer(x)[2 * k : 2 * k + 2], expected, **EXACT)


def test_rows_that_no_pack_can_share_are_refused(layer_of):
    layer = layer_of("lora", runs=3)
    with pytest.raises(ValueError, match=r"layer got an input of 4 rows.*without a batch axis"):
        layer(torch.randn(4, 7, dtype=torch.float64))


def test_a_rank_that_does_not_fit_names_the_layer(layer_of):
    with pytest.raises(ValueError, match="rank 6 does not fit layer, a 5 x 7 map: 1 to 5 is possible"):
        layer_of("lora", r=6)


def test_a_model_that_looks_at_the_weight_sees_one(layer_of):
    assert layer_of("lora", transposed=True).weight.shape == (7, 5)
    assert layer_of("lora").weight.shape == (5, 7)
    quantised = layer_of("lora", storage="nf4").weight
    assert quantised.shape == (5, 7) and quantised.dtype == torch.float32 and quantised.device.type == "meta"
