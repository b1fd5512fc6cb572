"""The forms beyond LoRA against PEFT's: outputs, every gradient, thirty optimiser steps.

Where PEFT has none, against a transcription of the authors' few lines.
"""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from variants import RunConfig, attach

peft = pytest.importorskip("peft")

EXACT = {"rtol": 1e-9, "atol": 1e-10}
SINGLE = {"rtol": 1e-5, "atol": 1e-6}  # PEFT's FourierFT goes through float32
R = 3


def gralora_A(A):
    return A.view(R, 3, -1).permute(1, 2, 0)


def gralora_B(B):
    return B.view(3, -1, R).transpose(1, 2)


# delta -> PEFT's settings, and by their name the parameters of ours in PEFT's layout
PEERS = {
    "vera": (lambda: peft.VeraConfig(r=R), {"vera_lambda_d": "d", "vera_lambda_b": "b"}),
    "miss": (lambda: peft.MissConfig(r=R), {"miss_block": ("B", lambda B: B.T)}),
    "delora": (
        lambda: peft.DeloraConfig(r=R, delora_lambda=12),
        {"delora_A": "A", "delora_B": "B", "delora_lambda": ("lam", lambda lam: lam[None])},
    ),
    "hira": (lambda: peft.HiraConfig(r=R), {"hira_A": "A", "hira_B": "B"}),
    "fourierft": (lambda: peft.FourierFTConfig(n_frequency=12, scaling=2.5), {"fourierft_spectrum": "c"}),
    "randlora": (
        lambda: peft.RandLoraConfig(r=R, randlora_alpha=R * 20),
        {"randlora_lambda": ("lam", lambda lam: lam.T), "randlora_gamma": "gamma"},
    ),
    "gralora": (
        lambda: peft.GraloraConfig(r=R, gralora_k=3, alpha=6),
        {"gralora_A": ("A", gralora_A), "gralora_B": ("B", gralora_B)},
    ),
    "loha": (
        lambda: peft.LoHaConfig(r=R, alpha=6),
        {"hada_w1_a": "B1", "hada_w1_b": "A1", "hada_w2_a": "B2", "hada_w2_b": "A2"},
    ),
    "oft": (
        lambda: peft.OFTConfig(r=0, oft_block_size=R, use_cayley_neumann=False),
        {"oft_R": ("q", lambda q: q.view(-1, R * (R - 1) // 2))},
    ),
    "lokr": (
        lambda: peft.LoKrConfig(r=R, alpha=6),
        {"lokr_w1": "C", "lokr_w2_a": "B", "lokr_w2_b": "A"},
    ),
}
SIZES = {
    "gralora": [(9, 15), (15, 9)],
    "oft": [(9, 5), (9, 11)],
    "lokr": [(15, 21), (21, 14)],
}  # what their blocks divide
CASES = [(name, *size) for name in PEERS for size in SIZES.get(name, [(7, 5), (5, 7)])]
OPTIONS = {"fourierft": {"n_per_r": 4, "fourier_scale": 2.5}, "gralora": {"blocks": 3}}


def in_layout(ours, name, tensors):
    """One of our tensors of run 0, in the layout of PEFT's parameter."""
    key, view = (
        PEERS[ours][1][name] if isinstance(PEERS[ours][1][name], tuple) else (PEERS[ours][1][name], None)
    )
    return tensors[key][0] if view is None else view(tensors[key][0])


def share_what_is_fixed(name, module, delta, start, d_in):
    """The random parts that PEFT draws by itself; `start` is our delta before it moved."""
    if name == "vera":
        module.vera_A["default"], module.vera_B["default"] = delta.A[0], delta.B[0]
    elif name == "fourierft":
        places = delta.places[0]
        module.indices["default"] = torch.stack([places // d_in, places % d_in])
    elif name == "delora":  # PEFT subtracts nothing: its base is W without what PEFT makes of our start
        share_what_is_trained(name, module, start)
        module.get_base_layer().weight.data -= module.get_delta_weight("default").detach()
    elif name == "randlora":
        # PEFT's product meets its bases in another order: rank by rank, where ours goes basis by basis
        n, large = delta.gamma.shape[1], len(delta.B[0])
        module.randlora_A["default"] = delta.A[0][:, None]
        module.randlora_B["default"] = delta.B[0].view(large, n, R).transpose(1, 2).reshape(large, n, R)


def share_what_is_trained(name, module, delta):
    """PEFT's parameters take the numbers of ours."""
    for theirs in PEERS[name][1]:
        parameter(module, theirs).data.copy_(in_layout(name, theirs, dict(delta.named_parameters())))


def parameter(module, name):
    found = getattr(module, name)["default"]
    return found.weight if isinstance(found, nn.Module) else found


@pytest.fixture(params=CASES, ids=lambda c: "-".join(map(str, c)))
def pair(request, layer_of):
    """(its name, a layer of ours away from its start, PEFT's over the same base with the same numbers)."""
    name, d_in, d_out = request.param
    scaling = "alpha_over_r" if name in ("gralora", "loha", "lokr") else "none"
    form = {"scaling": scaling, "d_in": d_in, "d_out": d_out, "alpha": 6.0, "options": OPTIONS.get(name)}
    layer = layer_of(name, **form)
    plain = nn.Linear(d_in, d_out).double()
    plain.weight.data.copy_(layer.base.weight())
    plain.bias.data.copy_(layer.bias)
    config = PEERS[name][0]()
    config.target_modules = {"0"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = peft.get_peft_model(nn.Sequential(plain), config).double().base_model.model[0]
    delta = layer.held[0].delta
    share_what_is_fixed(name, module, delta, layer_of(name, **form, moved=False).held[0].delta, d_in)
    share_what_is_trained(name, module, delta)
    return name, layer, module


def test_outputs_and_every_gradient_are_those_of_peft(pair, rows, gradients):
    name, layer, module = pair
    close = SINGLE if name == "fourierft" else EXACT
    x = rows(d_in=layer.base.d_in)
    y, dx, grads = gradients(layer, x)
    y2, dx2, _ = gradients(module, x)
    assert_close(y, y2, **close)
    assert_close(dx, dx2, **close)
    own = {key.rpartition(".")[2]: grad for key, grad in grads.items()}
    assert set(own) == {value[0] if isinstance(value, tuple) else value for value in PEERS[name][1].values()}
    for theirs in PEERS[name][1]:
        assert_close(in_layout(name, theirs, own), parameter(module, theirs).grad, **close)


def trained(modules, d_in, d_out, steps=30):
    """Both sides after some steps of AdamW on the same rows."""
    source = torch.Generator().manual_seed(7)
    optimisers = [
        torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
        for m in modules
    ]
    for _ in range(steps):
        x = torch.randn(4, d_in, generator=source, dtype=torch.float64)
        target = torch.randn(4, d_out, generator=source, dtype=torch.float64)
        for model, optimiser in zip(modules, optimisers, strict=True):
            optimiser.zero_grad()
            (model(x) - target).square().mean().backward()
            optimiser.step()


def test_thirty_optimiser_steps_end_where_peft_ends(pair):
    name, layer, module = pair
    trained((layer, module), layer.base.d_in, layer.base.d_out)
    delta = layer.held[0].delta
    for theirs in PEERS[name][1]:
        ours, other = (
            in_layout(name, theirs, dict(delta.named_parameters())),
            parameter(module, theirs),
        )
        assert_close(ours, other, rtol=1e-6, atol=1e-6, check_dtype=False)


def test_lora_fa_is_pefts_lora_whose_a_is_frozen(layer_of):
    layer = layer_of("lora_fa")
    plain = nn.Linear(7, 5).double()
    plain.weight.data.copy_(layer.base.weight())
    plain.bias.data.copy_(layer.bias)
    config = peft.LoraConfig(r=R, lora_alpha=4.0, target_modules=["0"])
    module = peft.get_peft_model(nn.Sequential(plain), config).double().base_model.model[0]
    delta = layer.held[0].delta
    module.lora_A["default"].weight.data.copy_(delta.A[0])
    module.lora_A["default"].weight.requires_grad_(False)
    module.lora_B["default"].weight.data.copy_(delta.B[0])
    before = delta.A.clone()
    trained((layer, module), 7, 5)
    assert_close(delta.B[0], module.lora_B["default"].weight, rtol=1e-8, atol=1e-9)
    assert torch.equal(delta.A, before)


class Latent(nn.Module):
    """LoRA-XS as its authors write it: a decomposition of W^T, an encoder, an r x r map, a decoder."""

    def __init__(self, weight, bias, r, scale):
        super().__init__()
        u, s, vh = torch.linalg.svd(weight.T, full_matrices=False)
        self.encoder, self.decoder = (u @ torch.diag(s))[:, :r], vh[:r]
        self.weight, self.bias, self.scale = weight, bias, scale
        self.mapping = nn.Linear(r, r, bias=False).double()

    def forward(self, x):
        return x @ self.weight.T + self.bias + self.mapping(x @ self.encoder) @ self.decoder * self.scale


@pytest.mark.parametrize(("d_in", "d_out"), [(7, 5), (5, 7)])
def test_lora_xs_is_its_authors_latent_map_between_singular_vectors(d_in, d_out, layer_of, rows):
    layer = layer_of("lora_xs", d_in=d_in, d_out=d_out)
    delta = layer.held[0].delta
    other = Latent(layer.base.weight(), layer.bias, R, 4.0 / R)
    signs = (other.decoder @ delta.B[0]).diagonal().sign()  # a pair of singular vectors may be turned
    turned = lambda R: signs[:, None] * R * signs  # noqa: E731
    other.mapping.weight.data.copy_(turned(delta.R[0].detach()))
    x = rows(d_in=d_in)
    assert_close(layer(x), other(x), **EXACT)
    trained((layer, other), d_in, d_out)
    assert_close(delta.R[0], turned(other.mapping.weight), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("tie", [None, "model"])
def test_tinylora_is_that_of_peft_turned_to_the_papers_factors(tie):
    """PEFT has sqrt(S) on both sides, the paper S on the left: P differs by sqrt(S) . sqrt(S)^-1."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 4)).double()
    config = peft.TinyLoraConfig(r=R, u=6, weight_tying=1.0 if tie else 0.0, target_modules=["0", "2", "4"])
    theirs = peft.get_peft_model(copy.deepcopy(plain), config).double()
    axes, options = {"delta": "tinylora", "scaling": "none"}, {"u": 6, "tie": tie}
    ours = attach(plain, [RunConfig(3, targets=("0", "2", "4"), r=R, alpha=None, axes=axes, options=options)])
    for name, (held, _) in ours.slots(0).items():
        module = theirs.base_model.model.get_submodule(name)
        A, B = module.tinylora_A["default"].double(), module.tinylora_B["default"].double()
        root = held.delta.B[0].norm(dim=0).sqrt()
        signs = (A @ held.delta.A[0].mT).diagonal().sign()
        turned = (root * signs)[:, None] * held.delta.P[0] * (signs / root)
        module.tinylora_P["default"] = turned
        assert_close(B * signs, held.delta.B[0] / root, rtol=1e-4, atol=1e-5)  # theirs is made in float32
        module.tinylora_A["default"] = held.delta.A[0] * (root * signs)[:, None]
        module.tinylora_B["default"] = held.delta.B[0] * (signs / root)
    trained_there = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    assert ours.count(0) == trained_there == (6 if tie else 18)
    x = torch.randn(11, 7, dtype=torch.float64)
    models = (ours.model, theirs)
    optimisers = [
        torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05) for model in models
    ]
    for _ in range(30):
        outs = [model(x) for model in models]
        assert_close(*outs, rtol=1e-8, atol=1e-9)
        for out, optimiser in zip(outs, optimisers, strict=True):
            out.sin().sum().backward()
            optimiser.step()
            optimiser.zero_grad()
    assert (outs[0] - plain_of(ours)(x)).abs().max() > 0.1


def plain_of(attached):
    """The model as it was."""
    layers = [m.base.weight() if hasattr(m, "base") else None for m in attached.model]
    biases = [getattr(m, "bias", None) for m in attached.model]

    def forward(x):
        for W, b in zip(layers, biases, strict=True):
            x = x.tanh() if W is None else x @ W.T + b
        return x

    return forward


def test_one_vector_of_tinylora_is_one_in_a_pack_as_alone(tiny_model, tokens):
    axes, options = {"delta": "tinylora"}, {"u": 5, "tie": "model"}
    runs = [RunConfig(7, r=2, axes=axes, options=options)] * 2 + [RunConfig(7, r=3, targets="all")]
    pack = attach(tiny_model("bert"), runs)
    vectors = [t for t in pack.trained if t.name.endswith(".v")]
    assert [t.runs for t in vectors] == [slice(0, 1), slice(1, 2)]  # alike in all, and yet each its own
    with torch.no_grad():
        for k, t in enumerate(vectors):
            t.parameter += 0.3 * (k + 1)
    alone = attach(tiny_model("bert"), runs[1:2])
    alone.put_back(0, pack.kept(1))
    ids = tokens()
    assert_close(alone.model(ids).logits, pack.model(ids.repeat(3, 1)).logits[len(ids) : 2 * len(ids)])


@pytest.mark.parametrize(("d_in", "d_out", "r"), [(7, 5, 3), (5, 7, 4), (11, 13, 6)])
def test_gralora_is_a_lora_in_every_block(d_in, d_out, r, layer_of):
    """Sizes that k does not divide, which PEFT has not: block (i, j) by the paper's equation."""
    layer = layer_of("gralora", d_in=d_in, d_out=d_out, r=r)
    delta = layer.held[0].delta
    k, A, B = delta.k, delta.A[0].double(), delta.B[0].double()
    ranks, columns, lines = (torch.arange(n).tensor_split(k) for n in (r, d_in, d_out))
    expected = layer.base.weight().clone()
    for i in range(k):
        for j in range(k):
            block = B[lines[i]][:, ranks[j]] @ A[ranks[i]][:, columns[j]]
            expected[lines[i][:, None], columns[j]] += 4.0 / r * block
    assert k > 1
    assert_close(delta.weight(layer.base)[0].double(), expected, **EXACT)


def test_deloras_change_is_bounded_by_its_strength_however_large_the_factors(layer_of):
    layer = layer_of("delora", scaling="none")
    delta = layer.held[0].delta
    with torch.no_grad():
        delta.A.mul_(1e3)
        delta.B.mul_(1e3)
    change = delta.weight(layer.base)[0] - layer.base.weight()
    assert change.norm() <= (delta.lam.abs() + 12.0) * delta.w.max()  # 12: lambda of what is subtracted


def test_deloras_first_step_is_as_small_as_its_rate(layer_of):
    """It starts on both factors' directions: a small rate turns them by a small angle, from W' = W on."""
    layer = layer_of("delora", scaling="none", moved=False)
    delta, W = layer.held[0].delta, layer.base.weight()
    assert_close(delta.weight(layer.base)[0], W, **EXACT)
    moves = []
    for lr in (1e-4, 1e-4):
        with torch.no_grad():
            delta.B += lr
        moves.append((delta.weight(layer.base)[0] - W).norm())
    assert 0 < moves[0] < 2e-3 * W.norm()
    assert_close(moves[1], 2 * moves[0], rtol=1e-2, atol=0.0)


@pytest.mark.parametrize("delta", ["oft", "boft"])
def test_a_turn_keeps_the_norms_of_rows_and_their_angles(delta, layer_of):
    layer = layer_of(delta)  # blocks of 3, 3 and 1
    W, changed = layer.base.weight(), layer.held[0].delta.weight(layer.base)[0]
    assert not torch.allclose(W, changed)
    assert_close(changed @ changed.T, W @ W.T, **EXACT)
    assert torch.equal(changed[:, 6], W[:, 6])  # a block of one has nothing to turn
    with pytest.raises(ValueError, match="r=1 leaves nothing to turn at layer"):
        layer_of(delta, r=1)


class BlockDiagonal:
    """PEFT's CUDA extension of BOFT in torch: what it works out, and the gradient of that."""

    @staticmethod
    def forward(blocks):
        return [torch.stack([torch.block_diag(*turn) for turn in blocks])]

    @staticmethod
    def backward(grad, blocks):
        n, b = blocks.shape[1:3]
        return [torch.stack([grad[:, i * b : (i + 1) * b, i * b : (i + 1) * b] for i in range(n)], 1)]


@pytest.mark.parametrize("sizes", [(1, 3, 9, 5), (2, 4, 24, 7), (2, 2, 12, 15), (3, 6, 48, 11)])
def test_boft_is_pefts_whose_outputs_are_not_scaled(sizes, layer_of, rows, gradients, monkeypatch):
    m, b, d_in, d_out = sizes
    # False: without the extension, and then PEFT has one turn, however many it is asked for
    monkeypatch.setattr("peft.tuners.boft.layer._FBD_CUDA", BlockDiagonal if m > 1 else False)
    layer = layer_of("boft", scaling="none", d_in=d_in, d_out=d_out, r=b, options={"butterfly": m})
    delta = layer.held[0].delta
    plain = nn.Linear(d_in, d_out).double()
    plain.weight.data.copy_(layer.base.weight())
    plain.bias.data.copy_(layer.bias)
    config = peft.BOFTConfig(boft_block_size=b, boft_n_butterfly_factor=m, target_modules=["0"])
    module = peft.get_peft_model(nn.Sequential(plain), config).double().base_model.model[0]
    module.boft_s["default"].requires_grad_(False)
    R = module.boft_R["default"]
    assert R.shape == (m, d_in // b, b, b) and delta.q.shape[1] == m * d_in * (b - 1) // 2
    U = torch.zeros(R.numel(), dtype=torch.float64).index_copy(0, delta.above, delta.q[0].detach())
    R.data.copy_(U.view(R.shape) - U.view(R.shape).mT)
    x = rows(d_in=d_in)
    y, dx, grads = gradients(layer, x)
    y2, dx2, _ = gradients(module, x)
    assert_close((y, dx), (y2, dx2), **EXACT)
    above = lambda skew: skew.flatten()[delta.above]  # noqa: E731
    assert_close(grads["deltas.0.q"][0], above(R.grad - R.grad.mT), **EXACT)
    W, s = module.get_delta_weight("default")
    assert_close(delta.weight(layer.base)[0], s * (layer.base.weight() @ W.T), **EXACT)
    trained((layer, module), d_in, d_out)
    assert_close(delta.q[0], above(R - R.mT) / 2, rtol=1e-6, atol=1e-6)


def test_boft_joins_all_inputs_where_it_turns_often_enough(layer_of):
    """Each input meets each other: what OFT's blocks never do."""
    for b, m, met in ((4, 1, 4), (4, 2, 8), (4, 3, 16), (2, 3, 8), (2, 4, 16)):
        layer = layer_of("boft", d_in=16, d_out=5, r=b, options={"butterfly": m})
        x = torch.eye(16, dtype=torch.float64)[None]
        assert (layer.held[0].delta.turned(x)[0].abs() > 1e-9).sum(1).tolist() == [met] * 16


def test_boft_of_more_turns_than_there_are_inputs_is_refused(layer_of, tiny_model):
    text = r"butterfly 4 turns blocks of r=3 over 24 inputs, and layer has 7: take 1 to 2, or a smaller r"
    with pytest.raises(ValueError, match=text):
        layer_of("boft", options={"butterfly": 4})
    runs = [RunConfig(s, r=4, axes={"delta": "boft"}, options={"butterfly": s}) for s in (1, 2)]
    assert all(len(layer.held) == 2 for layer in attach(tiny_model("bert"), runs).layers.values())


def test_fourierft_is_the_real_part_of_the_sum_over_its_places(layer_of):
    layer = layer_of("fourierft", scaling="none", options={"n_per_r": 2, "fourier_scale": 3.0})
    delta, (d_out, d_in) = layer.held[0].delta, (5, 7)
    j, l = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) / n for n in (d_out, d_in)), indexing="ij")  # noqa: E741
    expected = torch.zeros(d_out, d_in, dtype=torch.float64)
    for place, c in zip(delta.places[0].tolist(), delta.c[0].tolist(), strict=True):
        u, v = divmod(place, d_in)
        expected += c * torch.cos(2 * torch.pi * (u * j + v * l)) / (d_out * d_in)
    assert_close(delta.change(layer.base)[0], 3.0 * expected, **EXACT)
    assert len(delta.places[0].unique()) == 6


def test_randlora_is_the_sum_of_its_scaled_bases_and_of_full_rank(layer_of):
    for d_in, d_out in ((7, 5), (5, 7)):
        layer = layer_of("randlora", scaling="none", d_in=d_in, d_out=d_out)
        delta = layer.held[0].delta
        n = -(-min(d_in, d_out) // R)
        bases = delta.B[0].view(-1, n, R)
        total = sum(
            bases[:, j] @ delta.lam[0, j].diag() @ delta.A[0] @ delta.gamma[0, j].diag() for j in range(n)
        )
        expected = 20 * (total if d_in <= d_out else total.T)
        change = delta.weight(layer.base)[0] - layer.base.weight()
        assert_close(change, expected, **EXACT)
        assert torch.linalg.matrix_rank(change) == min(d_in, d_out)
