"""A pack of unlike runs on one model: each run is what it would be alone, and none can harm another."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from variants import RunConfig, attach, fed_without_batch, merge, names, rates
from variants._core.storage import AdaptedLinear

ADALORA = {"delta": "adalora", "controller": "adalora_budget"}
MIXED = [
    RunConfig(0, r=2, targets="qv"),
    RunConfig(1, r=4, targets="all", alpha=8.0, dropout=0.1),
    RunConfig(2, r=4, targets="all", axes={"delta": "dora"}),
    RunConfig(3, r=2, targets="all", steps=12, axes=ADALORA, options={"t_init": 2, "t_final": 3}),
]
RATES = [5e-3, 1e-2, 5e-3, 2e-2]


def batch(run, step, rows=3):
    """The data of one run at one step: a function of both, whoever is beside it."""
    source = torch.Generator().manual_seed(1000 * run.seed + step)
    ids = torch.randint(2, 31, (rows, 6), generator=source)
    ids[:, -1] = 1
    return ids, torch.randint(0, 3, (rows,), generator=source)


def train(model, runs, lrs, steps=12, poison=None):
    """A small loop with one optimiser per run: the losses of every step, (steps, runs)."""
    attached = attach(model, runs)
    attached.model.train()
    optimisers = {}
    for k, run in enumerate(runs):
        found = rates(run, lrs[k])
        mine = [t for t in attached.trained if t.runs == slice(k, k + 1) and not t.role.startswith("head")]
        groups = [{"params": [t.parameter], "lr": found[t.role][0]} for t in mine]
        optimisers[k] = torch.optim.AdamW(groups, weight_decay=0.0)
    heads = [t.parameter for t in attached.trained if t.role.startswith("head")]
    losses = []
    for step in range(steps):
        attached.clock.step = step
        attached.before_step()
        data = [batch(run, step) for run in runs]
        logits = attached.model(input_ids=torch.cat([ids for ids, _ in data])).logits.view(len(runs), 3, -1)
        loss = torch.stack([torch.nn.functional.cross_entropy(logits[k], y) for k, (_, y) in enumerate(data)])
        if poison == step:
            loss = loss * torch.where(torch.arange(4) == 1, float("nan"), 1.0)
        (loss + attached.penalty()).sum().backward()
        for optimiser in optimisers.values():
            optimiser.step()
        with torch.no_grad():  # the heads are stacked over all runs, so plain gradient descent by run
            for p in heads:
                p -= torch.tensor(lrs).view(-1, *[1] * (p.ndim - 1)) * p.grad
        attached.after_step(step)
        for p in attached.model.parameters():
            p.grad = None
        losses.append(loss.detach())
    return torch.stack(losses), attached


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_a_mixed_pack_trains_every_run_as_it_trains_alone(kind, tiny_model):
    together, pack = train(tiny_model(kind), MIXED, RATES)
    for k, run in enumerate(MIXED):
        alone, solo = train(tiny_model(kind), [run], RATES[k : k + 1])
        assert_close(together[:, k], alone[:, 0], rtol=0, atol=1e-5)
        for name, (W, changed) in solo.weights(0).items():
            assert_close(pack.weights(k)[name], (W, changed), rtol=1e-4, atol=1e-5)
        assert set(pack.weights(k)) == set(solo.weights(0))
    assert not torch.allclose(together[0], together[-1])


@pytest.mark.parametrize("delta", [name for name in names("delta") if name not in ("lora", "dora")])
def test_every_delta_trains_between_lora_and_dora_as_it_trains_alone(delta, tiny_model):
    runs = [
        RunConfig(0, r=2),
        RunConfig(1, r=2, axes={"delta": delta}, options={"n_per_r": 4}),  # few: no Fourier term at rest
        RunConfig(2, r=2, axes={"delta": "dora"}),
    ]
    lrs = [5e-3] * 3
    together, pack = train(tiny_model("bert"), runs, lrs)
    for k, run in enumerate(runs):
        alone, solo = train(tiny_model("bert"), [run], lrs[:1])
        assert_close(together[:, k], alone[:, 0], rtol=0, atol=1e-5)
        for name, (W, changed) in solo.weights(0).items():
            assert_close(pack.weights(k)[name], (W, changed), rtol=1e-4, atol=1e-5)


def test_a_nan_in_one_run_leaves_the_others_bit_identical(tiny_model):
    healthy, _ = train(tiny_model("bert"), MIXED, RATES)
    poisoned, _ = train(tiny_model("bert"), MIXED, RATES, poison=3)
    others = [0, 2, 3]
    assert torch.equal(healthy[:, others], poisoned[:, others])
    assert poisoned[4:, 1].isnan().all()


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_gradient_checkpointing_of_a_whole_model_changes_nothing(kind, tiny_model, tokens):
    def gradients(checkpointing):
        attached = attach(tiny_model(kind), MIXED)
        attached.clock.step = 7
        attached.model.train()
        if checkpointing:
            attached.model.gradient_checkpointing_enable({"use_reentrant": False})
        for t in attached.trained:
            t.parameter.data.add_(0.02)
        attached.before_step()
        attached.model(input_ids=tokens(8)).logits.square().sum().backward()
        return {t.name: t.parameter.grad for t in attached.trained}

    plain, again = gradients(False), gradients(True)
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.parametrize("storage", ["fp32", "bf16", "nf4"])
@pytest.mark.parametrize("kind", ["bert", "t5", "llama"])
def test_mixed_packs_train_in_bfloat16(kind, storage, tiny_model, tokens):
    runs = [replace(run, axes={**run.axes, "storage": storage}) for run in MIXED]
    attached = attach(tiny_model(kind), runs)
    attached.model.train()
    attached.before_step()
    with torch.autocast("cpu", torch.bfloat16):
        logits = attached.model(input_ids=tokens(8)).logits
    (logits.float().square().sum() + attached.penalty().sum()).backward()
    assert logits.dtype == torch.bfloat16
    for t in attached.trained:
        assert (
            t.parameter.grad.dtype == t.parameter.dtype == torch.float32 and t.parameter.grad.isfinite().all()
        )


def test_evaluating_in_inference_mode_leaves_training_possible(tiny_model, tokens):
    attached = attach(tiny_model("bert"), [RunConfig(0, r=2, axes={"delta": "dora"})])
    attached.after_step(0)
    with torch.inference_mode():
        attached.model(input_ids=tokens())
    attached.model(input_ids=tokens()).logits.sum().backward()


def test_what_is_alike_and_side_by_side_shares_a_stack(tiny_model):
    runs = [RunConfig(0, r=2), RunConfig(1, r=2, alpha=3.0), RunConfig(2, r=4), RunConfig(3, r=2)]
    attached = attach(tiny_model("bert"), runs)
    layer = next(iter(attached.layers.values()))
    assert [h.part.runs for h in layer.held] == [slice(0, 2), slice(2, 3), slice(3, 4)]
    assert [len(h.delta.A) for h in layer.held] == [2, 1, 1]


def test_a_layer_that_some_runs_leave_alone_passes_them_through(tiny_model, tokens):
    runs = [
        RunConfig(0, r=2, targets=["query"]),
        RunConfig(1, r=2, targets=["key"]),
        RunConfig(2, r=2, targets="mlp"),
    ]
    attached = attach(tiny_model("bert"), runs)
    for p in attached.model.parameters():
        if p.requires_grad:
            p.data.add_(0.1)
    layer = attached.layers["bert.encoder.layer.0.attention.self.query"]
    x = torch.randn(6, 4, 12)
    frozen = layer.base.linear(x) + layer.bias
    y = layer(x)
    assert not torch.allclose(y[:2], frozen[:2]) and torch.equal(y[2:], frozen[2:])


def test_blocks_of_a_fused_map_are_as_separate_maps_would_be(tiny_model):
    runs = [RunConfig(0, r=2), RunConfig(1, r=3, targets="qkv", axes={"delta": "dora"})]
    attached = attach(tiny_model("gpt2"), runs)
    for t in attached.trained:
        t.parameter.data.add_(0.05)
    attached.after_load()
    layer = attached.layers["transformer.h.0.attn.c_attn"]
    x = torch.randn(4, 5, 12, requires_grad=True)
    W = layer.base.weight()
    wholes = []
    for k in (0, 1):
        rows = W.clone()
        for held, i in attached.slots(k).values():
            if held in layer.held:
                rows[held.part.block] = held.delta.weight(held.base)[i]
        wholes.append(rows)
    expected = torch.cat([x[:2] @ wholes[0].T, x[2:] @ wholes[1].T]) + layer.bias
    y = layer(x)
    assert_close(y, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(wholes[0][12:24], W[12:24])
    dy = torch.randn_like(y)
    ours = torch.autograd.grad(y, [x, layer.held[0].delta.B], dy)
    theirs = torch.autograd.grad(expected, [x, layer.held[0].delta.B], dy)
    assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_pack_has_one_method_and_one_storage(tiny_model):
    with pytest.raises(
        ValueError, match="a pack holds runs of one method, or none; these are adapters, probe"
    ):
        attach(tiny_model("bert"), [RunConfig(0), RunConfig(1, method="probe")])
    with pytest.raises(ValueError, match=r"so one storage; these ask for \['bf16', 'fp32'\]"):
        attach(tiny_model("bert"), [RunConfig(0), RunConfig(1, axes={"storage": "bf16"})])


@pytest.mark.parametrize("method", ["full", "bitfit"])
def test_what_has_no_run_axis_is_refused_in_packs(method, tiny_model):
    with pytest.raises(
        ValueError, match=f"{method} trains the model's own parameters, which a pack of 2 runs would share"
    ):
        attach(tiny_model("bert"), [RunConfig(0, method=method), RunConfig(1, method=method)])


def test_a_layer_fed_without_a_batch_axis_is_found_before_a_pack_trains(tiny_model, tokens):
    """DeBERTa sends its table of relative positions through the key and query maps, once for all rows."""
    model = tiny_model("deberta")
    prefix = "deberta.encoder.layer"
    assert fed_without_batch(model) == [
        f"{prefix}.{i}.attention.self.{n}_proj" for i in (0, 1) for n in ("query", "key")
    ]
    with pytest.raises(ValueError, match=r"query_proj is fed without a batch axis .*3 runs cannot share it"):
        attach(model, [RunConfig(k, r=2) for k in range(3)])
    for storage in ("fp32", "nf4"):
        runs = [RunConfig(k, r=2, targets="mlp", axes={"storage": storage}) for k in range(3)]
        assert attach(tiny_model("deberta"), runs).model(input_ids=tokens(6)).logits.shape == (6, 3)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5"])
def test_most_models_feed_every_layer_by_rows(kind, tiny_model):
    assert fed_without_batch(tiny_model(kind)) == []


@pytest.mark.parametrize(
    ("kind", "block"), [("bert", "bert.encoder.layer.1."), ("t5", "transformer.decoder.block.1.")]
)
def test_the_top_blocks_may_learn_as_a_whole(kind, block, tiny_model, shared_copy, tokens):
    shared = tiny_model(kind)
    before = {name: p.clone() for name, p in shared.named_parameters()}
    attached = attach(shared_copy(shared), [RunConfig(0, r=2, targets="all", options={"unfreeze_top": 1})])
    plain = {t.name for t in attached.trained if t.plain}
    assert {name for name in before if name.startswith(block)} <= plain
    assert not any(name.startswith(block) for name in attached.layers) and attached.layers
    optimiser = torch.optim.SGD([t.parameter for t in attached.trained], lr=0.5)
    attached.model(input_ids=tokens()).logits.square().sum().backward()
    optimiser.step()
    assert all(torch.equal(p, before[name]) for name, p in shared.named_parameters())
    logits = attached.model(input_ids=tokens()).logits
    assert_close(merge(attached, 0)(input_ids=tokens()).logits, logits, rtol=1e-4, atol=1e-5)
    changed = {name for name, (W, new) in attached.weights(0).items() if not torch.equal(W, new)}
    assert any(name.startswith(block) for name in changed) and set(attached.layers) <= changed


def test_unfreezing_is_solo_and_within_the_model(tiny_model):
    with pytest.raises(ValueError, match="unfreeze_top trains the model's own parameters"):
        attach(tiny_model("bert"), [RunConfig(k, options={"unfreeze_top": 1}) for k in range(2)])
    with pytest.raises(ValueError, match="unfreeze_top 3: the model has 2 blocks"):
        attach(tiny_model("bert"), [RunConfig(0, options={"unfreeze_top": 3})])


def test_attaching_leaves_shared_tensors_as_they_were(tiny_model, shared_copy, tokens):
    model = tiny_model("bert")
    before = {name: p.clone() for name, p in model.named_parameters()}
    for method in ("adapters", "full", "bitfit", "probe", "zero"):
        copy = shared_copy(model)
        attached = attach(copy, [RunConfig(0, method=method)])
        if attached.trained:
            optimiser = torch.optim.SGD([t.parameter for t in attached.trained], lr=0.1)
            attached.model(input_ids=tokens()).logits.square().sum().backward()
            optimiser.step()
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
        assert all(p.grad is None for p in model.parameters())


def test_heads_come_from_each_runs_own_seed(tiny_model):
    pack = attach(tiny_model("bert"), [RunConfig(0), RunConfig(1), RunConfig(0, r=4)])
    weight = pack.heads["classifier"].weight
    assert torch.equal(weight[0], weight[2]) and not torch.equal(weight[0], weight[1])
    assert pack.heads["classifier"].bias.count_nonzero() == 0
    model = tiny_model("bert")
    kept = attach(model, [RunConfig(0), RunConfig(1)], fresh={"classifier.bias"})
    assert torch.equal(kept.heads["classifier"].weight[1], tiny_model("bert").classifier.weight)


def test_every_adapted_layer_knows_its_name(tiny_model):
    attached = attach(tiny_model("bert"), [RunConfig(0, targets="all", r=2)])
    found = {name for name, m in attached.model.named_modules() if isinstance(m, AdaptedLinear)}
    assert found == set(attached.layers) == {layer.name for layer in attached.layers.values()}
