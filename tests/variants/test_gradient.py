"""What happens between the gradient and Adam, and a scale that learns."""

import pytest
import torch
from torch.testing import assert_close

from variants import RunConfig, attach, get, names, rates

EXACT = {"rtol": 1e-9, "atol": 1e-10}


def drawn(*shape, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64)


@pytest.fixture
def factors():
    """A, B, the gradients that a full one G means for them, s, and G: of three runs."""
    A, B, s = drawn(3, 2, 7), drawn(3, 5, 2, seed=1), torch.tensor([0.5, 1.0, 3.0]).double()[:, None, None]
    G = drawn(3, 5, 7, seed=2)
    return A, B, s * B.mT @ G, s * G @ A.mT, s, G


def test_riemannian_is_the_paper_written_out(factors):
    A, B, dA, dB, s, _ = factors
    ours = get("gradient", "riemannian")(A, B, dA, dB, s)
    for k in range(3):
        damp = 1e-6 * torch.eye(2, dtype=torch.float64)
        assert_close(ours[0][k], torch.linalg.inv(B[k].T @ B[k] + damp) @ dA[k], **EXACT)
        assert_close(ours[1][k], dB[k] @ torch.linalg.inv(A[k] @ A[k].T + damp), **EXACT)


def test_scaled_factors_step_alike_under_riemannian(factors):
    """The paper's point: A / c and c B stand for one W and move it alike."""
    A, B, *_, G = factors
    one = torch.ones(3, 1, 1, dtype=torch.float64)
    moves = []
    for c in (1.0, 10.0):
        a, b = A / c, c * B
        ga, gb = get("gradient", "riemannian")(a, b, b.mT @ G, G @ a.mT, one)
        moves.append(b @ ga + gb @ a)
    assert_close(*moves, rtol=1e-3, atol=1e-3)  # delta is small, not nothing


def test_lora_pro_moves_w_by_the_projected_full_gradient(factors):
    A, B, dA, dB, s, G = factors
    gA, gB = get("gradient", "lora_pro")(A, B, dA, dB, s)
    onto = lambda M: M @ torch.linalg.pinv(M)  # noqa: E731
    eye = lambda n: torch.eye(n, dtype=torch.float64)  # noqa: E731
    expected = G - (eye(5) - onto(B)) @ G @ (eye(7) - onto(A.mT))
    assert_close(s * (B @ gA + gB @ A), expected, rtol=1e-4, atol=1e-5)


def test_lora_pro_keeps_both_gradients_as_close_as_its_freedom_allows(factors):
    """Of all X that move W alike, its own is the least squares solution; SciPy solves Sylvester's too."""
    from scipy.linalg import solve_sylvester

    A, B, dA, dB, s, _ = factors
    gA, gB = get("gradient", "lora_pro")(A, B, dA, dB, s)

    def distance(X):
        return ((gA + X @ A - dA) ** 2).sum() + ((gB - B @ X - dB) ** 2).sum()

    X = torch.zeros(3, 2, 2, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(distance(X), X)
    assert slope.abs().max() < 1e-4 * max(dA.abs().max(), dB.abs().max())
    P, Q, C = B.mT @ B, A @ A.mT, drawn(3, 2, 2, seed=5)
    from variants.lora_pro import sylvester

    for k in range(3):
        theirs = torch.from_numpy(solve_sylvester(P[k].numpy(), Q[k].numpy(), C[k].numpy()))
        assert_close(sylvester(P, Q, C)[k], theirs, **EXACT)


@pytest.mark.parametrize("kind", names("gradient"))
def test_a_run_that_diverged_harms_no_other(kind, factors):
    *tensors, _ = factors
    before = get("gradient", kind)(*tensors)
    spoilt = [t.clone() for t in tensors[:4]]
    for t in spoilt:
        t[1] = torch.nan
    after = get("gradient", kind)(*spoilt, tensors[4])
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[[0, 2]], new[[0, 2]]) and new[1].isnan().all()


@pytest.mark.parametrize("kind", names("gradient"))
def test_at_the_start_it_is_finite(kind):
    """B is zero, so that its Gram matrix is."""
    A, B = drawn(1, 2, 7), torch.zeros(1, 5, 2, dtype=torch.float64)
    gA, gB = get("gradient", kind)(
        A, B, torch.zeros_like(A), drawn(1, 5, 2, seed=3), torch.ones(1, 1, 1).double()
    )
    assert gA.isfinite().all() and gB.isfinite().all() and gB.any()


def config(seed, *, delta="lora", r=2, **options):
    axes = {"delta": delta, "gradient": options.pop("gradient", "none")}
    return RunConfig(seed, r=r, alpha=4.0, axes=axes, options=options)


def stepped(tiny_model, ids, runs):
    """The gradients that Adam would get, by name, of each run of a pack."""
    attached = attach(tiny_model("bert"), runs)
    with torch.no_grad():
        for t in attached.trained:
            t.parameter += 0.1 * drawn(*t.parameter.shape[1:], seed=4).float()
    attached.model(input_ids=ids).logits.square().sum().backward()
    attached.before_update()
    own = [{t.name: t for t in attached.trained if t.runs.start <= k < t.runs.stop} for k in range(len(runs))]
    grads = [[t.parameter.grad[k - t.runs.start] for t in o.values()] for k, o in enumerate(own)]
    return [dict(zip(attached.tensors(k), g, strict=True)) for k, g in enumerate(grads)]


def test_each_run_of_a_pack_has_its_own_gradient_axis(tiny_model, tokens):
    runs = [
        config(1), config(2, gradient="riemannian"), config(3, gradient="lora_pro"),
        config(4, gradient="riemannian", delta="dora"), config(5),
    ]  # fmt: skip
    ids = tokens(2)
    pack = stepped(tiny_model, ids.repeat(5, 1), runs)
    for k, run in enumerate(runs):
        (alone,) = stepped(tiny_model, ids, [run])
        assert pack[k].keys() == alone.keys()
        for name, grad in alone.items():
            assert_close(pack[k][name], grad, rtol=2e-4, atol=1e-5 * float(grad.abs().max()) + 1e-7)
    plain = stepped(tiny_model, ids, [config(2)])[0]
    changed = {name.rpartition(".")[2] for name, g in plain.items() if not torch.allclose(g, pack[1][name])}
    assert changed == {"A", "B"}


def test_a_delta_without_both_factors_is_refused_with_those_that_have_them(tiny_model):
    with pytest.raises(
        ValueError, match=r"delta=adalora does not train both.*\(dora, lora\), or gradient=none"
    ):
        attach(tiny_model("bert"), [config(0, delta="adalora", gradient="riemannian")])
    with pytest.raises(LookupError, match=r"no gradient named 'riemanian'\. Did you mean 'riemannian'"):
        attach(tiny_model("bert"), [config(0, gradient="riemanian")])


# --- a scale that learns


SCALED = [name for name in names("delta") if get("delta", name).scaled]


def test_a_delta_without_a_scale_has_none_to_learn(tiny_model):
    assert set(names("delta")) - set(SCALED) == {"oft", "boft", "delora"}
    with pytest.raises(ValueError, match=r"learn_scale trains s, and OFT has none.*delta=lora"):
        attach(tiny_model("bert"), [config(0, delta="oft", learn_scale="layer")])


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("delta", SCALED)
def test_a_scale_that_learns_has_the_gradient_of_the_dense_form(delta, runs, layer_of, rows, gradients):
    layer, x = layer_of(delta, runs=runs), rows(runs)
    plain = layer(x).detach()
    own = layer.held[0].delta
    own.learn_scale()
    own.expire(layer.held)
    assert_close(layer(x), plain, rtol=1e-12, atol=1e-13)
    y, dx, grads = gradients(layer, x)
    split = x.view(runs, -1, *x.shape[1:])
    dense = torch.cat([p @ W.mT + layer.bias for p, W in zip(split, own.weight(layer.base), strict=True)])
    y2, dx2, grads2 = gradients(layer, x, out=dense)
    assert_close((y, dx), (y2, dx2), **EXACT)
    assert grads.keys() == grads2.keys() and "deltas.0.scale" in grads
    assert all(grads["deltas.0.scale"].flatten().abs() > 1e-8)
    for name, grad in grads.items():
        assert_close(grad, grads2[name], msg=lambda text, name=name: f"{name}: {text}", **EXACT)


@pytest.mark.parametrize(("how", "scales"), [("layer", 4), ("model", 1)])
def test_a_scale_is_of_a_layer_or_of_the_model(how, scales, tiny_model, tokens):
    runs = [config(0), config(1, learn_scale=how), config(2, learn_scale=how), config(3)]
    pack = attach(tiny_model("bert"), runs)
    ids = tokens(8)
    with torch.no_grad():
        for t in pack.trained:
            t.parameter += 0.1 * drawn(*t.parameter.shape[1:], seed=4).float()
    logits = pack.model(input_ids=ids).logits
    for k, run in enumerate(runs):
        alone = attach(tiny_model("bert"), [run])
        alone.put_back(0, pack.tensors(k))
        found = [n for n in alone.tensors(0) if n.endswith("scale")]
        assert len(found) == (scales if run.options else 0)
        assert alone.count(0) == pack.count(k)
        assert_close(alone.model(input_ids=ids[2 * k : 2 * k + 2]).logits, logits[2 * k : 2 * k + 2])
    facts = pack.summary(1)
    assert facts["scale"] != 2.0 and pack.summary(0)["scale"] == 2.0


def test_one_scale_for_layers_that_start_apart_is_refused(tiny_model):
    with pytest.raises(ValueError, match=r"learn_scale=model trains one s, but .*use learn_scale=layer"):
        attach(tiny_model("bert"), [config(0, learn_scale="model", rank_pattern="query=3")])


def test_a_scale_learns_at_a_rate_of_its_own():
    assert rates(RunConfig(0), 1e-3, 1e-2, 0.1)["scale"] == (1e-4, 0.0)
    assert rates(RunConfig(0, options={"scale_lr_ratio": 2.0}), 1e-3, 1e-2, 0.1)["scale"] == (2e-3, 0.0)


def test_a_scale_that_learned_goes_to_peft(tiny_model, tmp_path):
    from variants import Adapter, read_peft, write_peft

    attached = attach(tiny_model("bert"), [config(0, learn_scale="layer")])
    for i, (name, (held, _)) in enumerate(attached.slots(0).items()):
        held.delta.scale.data += 0.25 * i
        held.delta.B.data.normal_()
        assert name
    write_peft(attached, 0, tmp_path / "out")
    adapter: Adapter = read_peft(tmp_path / "out")
    expected = {name: held.delta.scale_of(0) for name, (held, _) in attached.slots(0).items()}
    patterns = adapter.config["alpha_pattern"]
    r, alpha = adapter.config["r"], adapter.config["lora_alpha"]
    assert {n: patterns.get(n, alpha) / r for n in expected} == pytest.approx(expected)
