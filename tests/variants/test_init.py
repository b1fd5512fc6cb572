"""Starts of A and B: as the papers say, as PEFT has them, and at no cost in counts or copies of the base."""

import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from variants import RunConfig, attach, get, keep_decompositions, names
from variants._core import adapters
from variants.lora import LoRA

SUBTRACTED = [name for name in names("init") if get("init", name).subtracts]
R, D_IN, D_OUT = 3, 17, 13
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def made(layer_of, init, delta="lora", **options):
    return layer_of(f"{delta}+{init}", moved=False, d_in=D_IN, d_out=D_OUT, r=R, alpha=5.0, **options)


def spectrum(layer):
    return torch.linalg.svd(layer.base.weight(), full_matrices=False)


@pytest.mark.parametrize("delta", ["lora", "dora"])
@pytest.mark.parametrize("init", SUBTRACTED)
def test_what_is_subtracted_is_the_start_itself(init, delta, layer_of):
    layer = made(layer_of, init, delta, runs=2)
    held = layer.held[0].delta
    assert held.B.count_nonzero() and torch.equal(held.A, held.A0) and torch.equal(held.B, held.B0)
    assert_close(held.weight(layer.base), layer.base.weight().expand(2, -1, -1), rtol=1e-13, atol=1e-13)
    assert {p.shape[1:] for p in held.parameters() if p.requires_grad} >= {(R, D_IN), (D_OUT, R)}
    assert not held.A0.requires_grad and not held.B0.requires_grad


@pytest.mark.parametrize("delta", ["lora", "dora"])
def test_pissa_learns_the_principal_part_and_leaves_the_rest(delta, layer_of):
    layer = made(layer_of, "pissa", delta)
    held = layer.held[0].delta
    U, S, Vt = spectrum(layer)
    change = held.scale[0] * held.B[0] @ held.A[0]
    assert_close(change, U[:, :R] * S[:R] @ Vt[:R])
    rest = torch.linalg.svdvals(layer.base.weight() - change)
    assert_close(rest[: len(S) - R], S[R:])  # equation 4
    assert rest[len(S) - R :].max() < 1e-12
    balanced = held.scale[0] * torch.stack([held.B[0].square().sum(0), held.A[0].square().sum(1)])
    assert_close(balanced, S[:R].expand(2, -1))


def test_milora_learns_the_minor_part(layer_of):
    layer = made(layer_of, "milora")
    held = layer.held[0].delta
    U, S, Vt = spectrum(layer)
    change = held.scale[0] * held.B[0] @ held.A[0]
    assert_close(change, U[:, -R:] * S[-R:] @ Vt[-R:])
    assert_close(torch.linalg.svdvals(layer.base.weight() - change)[: len(S) - R], S[: len(S) - R])


def test_olora_starts_orthonormal_with_the_first_columns_of_w(layer_of):
    layer = made(layer_of, "olora")
    A, B, W = layer.held[0].delta.A[0], layer.held[0].delta.B[0], layer.base.weight()
    assert_close(B.mT @ B, torch.eye(R, dtype=B.dtype))
    assert_close((B @ A)[:, :R], W[:, :R])
    assert_close(B @ A, B @ B.mT @ W)  # the projection on those columns
    assert (A[:, :R].tril(-1).abs() < 1e-13).all() and (A.diagonal() > 0).all()


def peft_layer(layer, init, **settings):
    """PEFT's layer with its own start on the same map, in float64 once it has started."""
    peft = pytest.importorskip("peft")
    plain = nn.Linear(D_IN, D_OUT)
    plain.weight.data.copy_(layer.base.weight())
    config = peft.LoraConfig(r=R, lora_alpha=5.0, target_modules=["0"], init_lora_weights=init, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(nn.Sequential(plain), config).double()
    return wrapped.base_model.model[0]


def steps(module, x, count=30):
    """The output after each of some steps of Adam towards a fixed target."""
    learning = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(learning, lr=0.01)
    target = torch.randn(*x.shape[:-1], D_OUT, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    outputs = []
    for _ in range(count):
        optimiser.zero_grad()
        out = module(x)
        (out - target).square().mean().backward()
        optimiser.step()
        outputs.append(out.detach())
    return torch.stack([*outputs, module(x).detach()])


PEFT = {"lora": {}, "dora": {"use_dora": True}}


@pytest.mark.parametrize("delta", PEFT)
@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_the_start_is_that_of_peft(init, delta, layer_of):
    """PEFT decomposes in float32; signs of singular vectors are free."""
    layer = made(layer_of, init, delta)
    theirs, held = peft_layer(layer, init, **PEFT[delta]), layer.held[0].delta
    A, B = theirs.lora_A["default"].weight, theirs.lora_B["default"].weight
    signs = (held.B[0] * B).sum(0).sign()
    assert_close(signs[:, None] * held.A[0], A, rtol=2e-5, atol=2e-5)
    assert_close(signs * held.B[0], B, rtol=2e-5, atol=2e-5)
    rest = layer.base.weight() - held.scale[0] * held.B[0] @ held.A[0]
    assert_close(theirs.base_layer.weight, rest, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("delta", PEFT)
@pytest.mark.parametrize("init", SUBTRACTED)
def test_outputs_gradients_and_thirty_steps_are_those_of_peft(init, delta, layer_of, rows, gradients):
    """PEFT's layer from the same A and B, over a base from which they are taken, as PEFT does."""
    layer = made(layer_of, init, delta)
    theirs, held, x = peft_layer(layer, True, **PEFT[delta]), layer.held[0].delta, rows(d_in=D_IN)
    theirs.lora_A["default"].weight.data.copy_(held.A[0])
    theirs.lora_B["default"].weight.data.copy_(held.B[0])
    theirs.base_layer.bias.data.copy_(layer.bias)
    theirs.base_layer.weight.data.copy_(layer.base.weight() - held.scale[0] * held.B[0] @ held.A[0])
    if delta == "dora":
        theirs.lora_magnitude_vector["default"].weight.data.copy_(held.m[0])
    y, dx, grads = gradients(layer, x)
    y2, dx2, _ = gradients(theirs, x)
    assert_close((y, dx), (y2, dx2), **EXACT)
    assert_close(grads["deltas.0.A"][0], theirs.lora_A["default"].weight.grad, **EXACT)
    assert_close(grads["deltas.0.B"][0], theirs.lora_B["default"].weight.grad, **EXACT)
    ours, peft = steps(layer, x.detach()), steps(theirs, x.detach())
    assert_close(ours, peft, **EXACT)
    assert not torch.allclose(ours[0], ours[-1], rtol=1e-3)


@pytest.mark.parametrize(("delta", "init"), list(itertools.product(["lora", "dora"], SUBTRACTED)))
def test_frozen_factors_are_neither_trained_nor_counted(delta, init, tiny_model):
    run = RunConfig(0, r=2, targets="all", axes={"delta": delta})
    plain, started = (attach(tiny_model("bert"), [r]) for r in (run, _with(run, init)))
    assert started.count(0) == plain.count(0)
    assert [t.role for t in started.trained] == [t.role for t in plain.trained]
    assert started.base_bytes() - plain.base_bytes() == sum(
        p.nbytes for held in started.held().values() for h in held for p in (h.delta.A0, h.delta.B0)
    )
    bases = {id(layer.base) for layer in started.layers.values()}
    assert len(bases) == len(started.layers)


def _with(run, init):
    return RunConfig(run.seed, r=run.r, targets=run.targets, axes={**run.axes, "init": init})


def test_a_delta_that_starts_its_factors_itself_refuses_an_init(tiny_model):
    run = RunConfig(0, r=2, axes={"delta": "adalora", "controller": "none", "init": "pissa"})
    with pytest.raises(
        ValueError,
        match=r"init=pissa says how A and B start, and delta=adalora cannot start so: choose a delta "
        r"that can \(dora, hira, lora, lora_fa\), or init=kaiming",
    ):
        attach(tiny_model("bert"), [run])


def test_a_delta_that_builds_on_lora_takes_what_leaves_b_at_zero():
    """Unless it says that the start may be subtracted from what it makes of A and B."""

    class Own(LoRA):
        pass

    taken = {init: adapters._takes(Own, init) for init in ("gaussian", "eva", "milora", "loftq")}
    assert taken == {"gaussian": True, "eva": True, "milora": False, "loftq": False}
    assert adapters._takes(LoRA, "milora")


def test_a_frozen_factor_that_was_taken_from_w_is_kept_with_the_run(tiny_model):
    run = RunConfig(0, r=2, axes={"delta": "lora_fa", "init": "pissa"})
    attached = attach(tiny_model("bert"), [run, RunConfig(1, r=2, axes={"delta": "lora_fa"})])
    kept = [{name.rpartition(".")[2] for name in attached.kept(k) if "deltas" in name} for k in (0, 1)]
    assert kept == [{"A", "B", "A0", "B0"}, {"B"}]
    for name, (W, after) in attached.weights(0).items():
        assert_close(after, W, msg=name)


@pytest.mark.parametrize("init", ["pissa", "milora"])
def test_a_decomposition_is_made_once_for_all_runs_and_outlives_the_process(init, layer_of, monkeypatch):
    from variants._core import init as inits

    made_of, kept, svd = [], {}, inits.svd
    monkeypatch.setattr(inits, "svd", lambda W: made_of.append(W) or svd(W))
    monkeypatch.setattr(inits, "_outside", [])
    monkeypatch.setattr(inits, "_known", type(inits._known)())
    alone = made(layer_of, init).held[0].delta
    keep_decompositions(kept.get, kept.__setitem__)
    made(layer_of, init, runs=3)
    assert len(made_of) == 1 and not kept  # of this process
    inits._known.clear()
    made(layer_of, init)
    assert len(made_of) == 2 and len(kept) == 1
    inits._known.clear()
    again = made(layer_of, init).held[0].delta
    assert len(made_of) == 2  # of another one
    assert torch.equal(again.A, alone.A) and torch.equal(again.B, alone.B)
    made(layer_of, init, transposed=True)
    assert len(made_of) == 2  # the same W, kept in another way
    made(layer_of, init, storage="bf16")
    assert len(made_of) == 3  # another W


def test_the_hash_of_a_weight_is_worked_out_once(layer_of, monkeypatch):
    layer = made(layer_of, "kaiming")
    first = layer.base.digest()
    monkeypatch.setattr(type(layer.base), "weight", None)
    assert layer.base.digest() == first
