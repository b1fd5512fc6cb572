"""DoRA against a slow transcription of the paper's equations and of the authors' forward pass."""

import math

import pytest
import torch
from torch.testing import assert_close

from variants import AdaptedLinear, Clock, Slot, get
from variants._core import lowrank as _lowrank
from variants._core.base import DenseBase
from variants.dora import CANCELS

EXACT = {"rtol": 1e-10, "atol": 1e-11}


def literal_weight(W, A, B, m, s):
    """Eq. 5, one row at a time."""
    V = W + s * B @ A
    return torch.stack(
        [m[j] * V[j] / math.sqrt(sum(float(v) ** 2 for v in V[j].detach())) for j in range(len(W))]
    )


def literal_forward(x, x_dropped, W, A, B, m, s, b):
    """The authors' forward pass: undropped base, two corrections on one dropped input, a constant norm."""
    norm = torch.linalg.norm(W + s * B @ A, dim=1).detach()
    g = m / norm
    base = x @ W.T
    base_dropped = x_dropped @ W.T
    return base + (g - 1) * base_dropped + g * s * (x_dropped @ A.T @ B.T) + b


@pytest.fixture
def dora(layer_of):
    return layer_of("dora", runs=2)


def parts(layer, k):
    delta = layer.held[0].delta
    return layer.base.weight(), delta.A[k], delta.B[k], delta.m[k], float(delta.scale[k])


def test_the_weight_is_equation_5(dora):
    for k in range(2):
        W = dora.held[0].delta.weight(dora.base)[k]
        assert_close(W, literal_weight(*parts(dora, k)), **EXACT)


@pytest.mark.parametrize("tokens", [3, 5])
@pytest.mark.parametrize("storage", ["fp64", "nf4"])
@pytest.mark.parametrize("bias", [True, False])
def test_with_few_rows_and_with_many_it_is_the_same_map(bias, storage, tokens, layer_of, gradients):
    """The gain scales the output where x has fewer rows than W has columns, else W and B."""
    layer = layer_of("dora", bias=bias, storage=storage, r=3)
    source = torch.Generator().manual_seed(4)
    x = torch.randn(2, tokens, 7, generator=source, dtype=layer.deltas[0].A.dtype).requires_grad_()
    assert _lowrank._folds(layer.base, x, 1, [(_lowrank.EVERYWHERE, 1.0)], x) == (2 * tokens > 7)
    W, A, B, m, s = parts(layer, 0)
    V = W + s * B @ A
    literal = x @ (m / torch.linalg.norm(V, dim=1).detach() * V.mT)
    literal = literal if layer.bias is None else literal + layer.bias.to(x.dtype)
    near = EXACT if storage == "fp64" else {"rtol": 1e-4, "atol": 1e-5}
    assert_close(gradients(layer, x), gradients(layer, x, out=literal), **near)


@pytest.mark.parametrize("storage", ["fp64", "bf16", "nf4"])
@pytest.mark.parametrize("bias", [True, False])
def test_with_dropout_it_is_the_authors_forward_pass(bias, storage, layer_of, rows, gradients):
    layer = layer_of("dora", runs=2, dropout=0.4, bias=bias, storage=storage).train()
    for p in layer.parameters():
        p.data = p.data.double()
    layer.held[0].delta.scale = layer.held[0].delta.scale.double()
    x = rows(2)
    dropped = layer.held[0].delta.dropped(x.view(2, -1, 7)).view(x.shape)
    b = 0 if layer.bias is None else layer.bias
    W = layer.base.weight(torch.float64)
    halves = [
        literal_forward(x[2 * k : 2 * k + 2], dropped[2 * k : 2 * k + 2], W, *parts(layer, k)[1:], b)
        for k in range(2)
    ]
    # the norm of a narrow W is kept in float32
    near = EXACT if storage == "fp64" else {"rtol": 1e-5, "atol": 1e-6}
    assert_close(gradients(layer, x), gradients(layer, x, out=torch.cat(halves)), **near)


def test_reusing_the_base_product_is_another_model_and_named_so(layer_of, rows):
    options = {"reuse_base_with_dropout": True}
    layer = layer_of("dora", dropout=0.4, options=options).train()
    x = rows()
    W, A, B, m, s = parts(layer, 0)
    dropped = layer.held[0].delta.dropped(x.view(1, -1, 7)).view(x.shape)
    g = m / torch.linalg.norm(W + s * B @ A, dim=1)
    assert_close(layer(x), g * (x @ W.T + s * dropped @ A.T @ B.T) + layer.bias, **EXACT)
    assert not torch.allclose(layer(x), layer_of("dora", dropout=0.4).train()(x))
    assert torch.equal(layer.eval()(x), layer_of("dora")(x))


def test_the_norm_is_detached(dora, rows, gradients):
    """With the norm in the graph the gradient of B would have no part along the rows of V (eq.

    6); detached, it has one.
    """
    x = rows(2)
    *_, grads = gradients(dora, x)
    W, A, B, _, s = parts(dora, 0)
    V = W + s * B @ A
    along = (grads["deltas.0.B"][0] * (V @ A.T)).sum(1)
    assert (along.abs() > 1e-3).all()


def test_at_the_start_the_gain_is_exactly_one(layer_of):
    for storage in ("fp64", "bf16", "nf4"):
        layer = layer_of("dora", storage=storage, runs=2, moved=False)
        assert torch.equal(
            layer.held[0].delta.factors(layer.base).g, torch.ones(2, 1, 5, dtype=layer.deltas[0].m.dtype)
        )


def test_it_is_lora_while_the_magnitude_follows_the_norm(layer_of, rows):
    dora, lora = layer_of("dora"), layer_of("lora")
    W, A, B, _, s = parts(dora, 0)
    lora.deltas[0].A.data[0], lora.deltas[0].B.data[0] = A, B
    dora.deltas[0].m.data[0] = torch.linalg.norm(W + s * B @ A, dim=1).detach()
    assert_close(dora(rows()), lora(rows()), **EXACT)


def single(W, *, runs=1, dtype=torch.float64):
    base = DenseBase(W.to(dtype))
    layer = AdaptedLinear(base, None, name="layer", runs=runs)
    delta = get("delta", "dora")(base, [Slot("layer", k, 2, 1.0) for k in range(runs)], clock=Clock())
    layer.hold(slice(0, runs), None, delta, base)
    return layer, delta


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_nearly_cancel_are_summed_as_they_are(dtype):
    torch.manual_seed(0)
    W = torch.randn(5, 7, dtype=torch.float64).to(dtype).double()
    layer, delta = single(W, dtype=dtype)
    small = 1e-6 * torch.randn(7, dtype=torch.float64)
    with torch.no_grad():
        delta.A[0, 0] = -W[2] + small
        delta.B[0, 2, 0] = 1.0
    rows = (W + delta.B[0].double() @ delta.A[0].double()).norm(dim=1)
    assert rows[2] ** 2 < CANCELS * W[2].norm() ** 2
    delta.refresh(layer.held)
    assert_close(delta._norms[0].double(), rows, rtol=1e-2 if dtype == torch.float32 else 1e-9, atol=0)
    healthy = [0, 1, 3, 4]
    assert_close(delta._norms[0, healthy].double(), rows[healthy], rtol=1e-6, atol=0)


def test_a_zero_row_stays_zero_and_everything_finite():
    torch.manual_seed(0)
    W = torch.randn(5, 7, dtype=torch.float64)
    W[3] = 0
    layer, delta = single(W)
    with torch.no_grad():
        delta.B[:, :3] += 1
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert (y[..., 3] == 0).all() and y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in delta.parameters()) and x.grad.isfinite().all()


def test_norms_are_worked_out_once_a_step(dora, rows, monkeypatch):
    delta, calls = dora.held[0].delta, []
    gram = type(delta)._gram
    monkeypatch.setattr(type(delta), "_gram", lambda self, base: calls.append(1) or gram(self, base))
    for step in range(3):
        delta.clock.step = step
        delta.refresh(dora.held)
        for micro in range(4):
            delta.clock.micro = micro
            dora(rows(2)).sum().backward()
    assert len(calls) == 3


def test_a_change_made_in_place_is_noticed(dora, rows):
    before = dora(rows(2))
    with torch.no_grad():
        dora.deltas[0].B.mul_(3.0)
    W = dora.held[0].delta.weight(dora.base)[0]
    assert not torch.allclose(dora(rows(2)), before)
    assert_close(W, literal_weight(*parts(dora, 0)), **EXACT)


def test_the_gram_form_holds_in_float32_what_float64_says(layer_of):
    torch.manual_seed(0)
    W = torch.randn(129, 65, dtype=torch.float64)
    layer, delta = single(W, dtype=torch.float32)
    with torch.no_grad():
        delta.B.normal_(std=0.3)
    exact = (layer.base.weight().double() + delta.B[0].double() @ delta.A[0].double()).norm(dim=1)
    delta.refresh(layer.held)
    assert_close(delta._norms[0].double(), exact, rtol=1e-6, atol=0)
