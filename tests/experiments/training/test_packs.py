"""Packs: whatever its method, its place and its company, a run trains as it trains alone.

Every loss within 1e-5 of the solo run's, every answer the same.
"""

import copy
import io
import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.testing import assert_close

from experiments.bench.fake import specs_of
from experiments.config.groups import Conf
from experiments.spec import Train
from experiments.training import loop
from experiments.training.loop import Callback, Trainer, run_config
from variants import attach

CONF = Path(__file__).parents[3] / "conf"
STEPS, LENGTH = 7, 12
SOLO = {"full", "bitfit", "houlsby"}  # train or enter the base, so never in a pack
SIZED = {  # for a model of width 20 and few steps
    "adalora": ("variant.init_r_ratio=1.5", "variant.t_init=1", "variant.t_final=2", "variant.interval=2"),
    "corda": (f"variant.init_batches={STEPS + 1}",),  # more than it has steps
    "delora": ("variant.delora_lambda=0.5",),  # more of it magnifies rounding in solo runs, too
    "eva": ("variant.init_batches=3",),
    "fourierft": ("variant.n_per_r=7",),
    "lora_ga": ("variant.init_batches=2",),
    "loftq": ("variant.compute=fp32",),
    "pfeiffer": ("variant.bottleneck=5",),
    "prefix": ("variant.length=3", "variant.inner=5"),
    "prompt": ("variant.length=3",),
    "ptuning_v2": ("variant.length=3",),
    "qlora": ("variant.compute=fp32",),
    "tinylora": ("variant.u=7",),
}
METHODS = {
    **{name: (name,) for name in Conf(CONF).choices("variant") if name not in {*SOLO, "zero"}},
    "dora, base reused": ("dora", "variant.reuse_base_with_dropout=true"),
    "eva, ranks moved": ("eva", "variant.rho=2"),
    "pissa, dora": ("pissa", "variant.delta=dora"),
    "lora_pro, dora": ("lora_pro", "variant.delta=dora"),
    "tinylora, tied": ("tinylora", "variant.tie=model"),
    "learned scales": ("lora", "variant.learn_scale=layer"),
    "a learned scale": ("riemannian", "variant.learn_scale=model"),
    "qdora": ("qlora", "variant.delta=dora"),
    "int4": ("lora", "variant.storage=int4"),
    "bf16 base": ("lora", "variant.storage=bf16"),
    "ia3 on nf4": ("ia3", "variant.storage=nf4"),
}


@cache
def configured(method):
    """A run of the method as a command gives it."""
    variant, *words = METHODS[method]
    [spec] = specs_of(f"variant={variant}", *SIZED.get(variant, ()), *words, "model=minilm", "study=test")
    return spec


def spec_of(method="lora", seed=0, *, r=3, alpha=5.0, targets="qv", lr=6e-3, dropout=0.0, **train):
    spec = configured(method)
    if spec.r is not None:
        spec = replace(spec, r=r, targets=targets, alpha=None if spec.alpha is None else alpha)
    if "dropout" in spec.options:
        spec = replace(spec, options={**spec.options, "dropout": dropout})
    train = {"batch_size": 6, "head_lr": 4e-3, "log_every": 2, "weight_decay": 0.02, **train}
    return replace(spec, seed=seed, lr=lr, train=Train(**{"steps": STEPS, "evaluations": 2, **train}))


@cache
def groups():
    """The methods that may share a pack, by one of them."""
    by_key = {}
    for method in METHODS:
        by_key.setdefault(configured(method).pack_key(), []).append(method)
    return {methods[0]: methods for methods in by_key.values()}


def unlike(method, i, **shared):
    """A run of a method that differs from others in all that is free; some end before others."""
    return spec_of(
        method, 10 + i, r=2 + i % 4, alpha=3.0 + i % 7, targets=("all", "qv", "mlp")[i % 3],
        lr=2e-3 * (1 + i % 5), steps=(STEPS + 2, STEPS - 2, STEPS)[i % 3],
        schedule=("cosine", "constant", "linear")[i % 3], clip=(0.2, 0.0)[i % 2], **shared,
    )  # fmt: skip


def company(method, count, **train):
    """Other runs that may share its pack, every second one with dropout."""
    [fellows] = [methods for methods in groups().values() if method in methods]
    start = fellows.index(method) + 1
    chosen = ((fellows * 2)[(start + i) % len(fellows)] for i in range(count))
    return [unlike(other, i, dropout=0.3 * (i % 2), **train) for i, other in enumerate(chosen)]


class Rows(Callback):
    """Keeps the history of each run."""

    def __init__(self, specs):
        self.of = [[] for _ in specs]

    def on_rows(self, k, rows):
        self.of[k].extend(rows)


def trainer_of(frozen, split, specs):
    configs = [run_config(spec, steps=spec.train.steps) for spec in specs]
    attached = attach(copy.deepcopy(frozen), configs)
    if specs[0].train.gradient_checkpointing:
        attached.model.gradient_checkpointing_enable({"use_reentrant": False})
    return Trainer(specs, attached, split)


def train(frozen, split, specs, *, stop=None):
    """The rows of each run's history, and its answers to all examples; stopped and resumed at step `stop`."""
    rows, trainer = Rows(specs), trainer_of(frozen, split, specs)
    if stop is not None:
        trainer.run([rows], should_stop=lambda: trainer.progress.step >= stop)
        file = io.BytesIO()
        torch.save(trainer.state_dict(), file)
        trainer = trainer_of(frozen, split, specs)
        trainer.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    trainer.run([rows])
    with torch.no_grad():
        logits = trainer.attached.model.eval()(
            input_ids=split.input_ids.repeat(len(specs), 1),
            attention_mask=split.attention_mask.repeat(len(specs), 1),
        ).logits
    return rows.of, logits.unflatten(0, (len(specs), len(split.ids))).argmax(-1)


def check_equal(spec, rows, answers, alone, expected):
    assert [row["step"] for row in rows] == list(range(1, spec.train.steps + 1))
    for ours, theirs in zip(rows, alone, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5, rel=0)
        assert ours["lr"] == theirs["lr"]
    assert alone[0]["loss"] != alone[-1]["loss"]
    assert torch.equal(answers, expected)


def check(frozen, split, method, spec, *, size, place, stop=None):
    shared = {key: getattr(spec.train, key) for key in ("micro_batch_size", "gradient_checkpointing")}
    others = company(method, size - 1, **shared)
    rows, answers = train(frozen, split, [*others[:place], spec, *others[place:]], stop=stop)
    [alone], [expected] = train(frozen, split, [spec])
    check_equal(spec, rows[place], answers[place], alone, expected)


def test_what_trains_in_no_pack_is_known():
    assert {name for name in Conf(CONF).choices("variant") if name not in METHODS} == {*SOLO, "zero"}
    for name in SOLO:
        assert specs_of(f"variant={name}", "model=minilm")[0].pack_key() is None


@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_every_method_trains_in_a_pack_as_it_trains_alone(frozen, split, method):
    check(frozen, split, method, spec_of(method, 1, r=4), size=3, place=1)


@pytest.mark.parametrize("method", METHODS)
def test_so_it_does_with_dropout_accumulation_checkpointing_and_a_resume(frozen, split, method):
    spec = spec_of(method, 2, dropout=0.25, micro_batch_size=2, gradient_checkpointing=True)
    check(frozen, split, method, spec, size=5, place=4, stop=5)


@pytest.fixture(scope="module")
def alone(frozen, split):
    """What a run leaves that trains alone and undisturbed; each is trained once."""
    return cache(lambda spec: [left[0] for left in train(frozen, split, [spec])])


@pytest.mark.grid
@pytest.mark.slow
@pytest.mark.parametrize("stop", [None, 4])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("micro", [None, 3])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5, 16])
@pytest.mark.parametrize("first", groups())
def test_the_grid(frozen, split, alone, first, size, dropout, micro, checkpointing, stop):
    """All methods that may share packs, mixed by lot into packs of `size`; every run of a pack is compared.

    With `dropout`, runs that have it among runs that have none: a pack of the latter cuts its padding.
    """
    if size == 1 and stop is None:
        pytest.skip("a run in one piece against itself")
    if dropout and "dropout" not in configured(first).options:
        pytest.skip("a method without dropout")
    shared = {"micro_batch_size": micro, "gradient_checkpointing": checkpointing}
    runs = [
        unlike(method, i, dropout=rate, **shared)
        for rate in ((0.0, 0.25) if dropout else (0.0,))
        for i, method in enumerate(groups()[first])
    ]
    random.Random(f"{first} {size} {dropout} {micro} {checkpointing} {stop}").shuffle(runs)
    runs += (runs * size)[: -len(runs) % size]  # the last pack is full, too
    for start in range(0, len(runs), size):
        pack = runs[start : start + size]
        rows, answers = train(frozen, split, pack, stop=stop)
        for k, spec in enumerate(pack):
            check_equal(spec, rows[k], answers[k], *alone(spec))


@pytest.mark.parametrize("micro", [None, 3])
def test_grouping_rows_by_length_changes_no_number(frozen, split, micro, monkeypatch):
    """Rows of one length at a time without their padding, against all rows at once as they are."""
    spec = spec_of("dora", 8, micro_batch_size=micro)
    pack = [spec, spec_of("adalora", 9, micro_batch_size=micro)]
    shapes, forward = [], type(frozen).forward

    def watched(self, *a, input_ids, **k):
        if self.training:
            shapes.append(tuple(input_ids.shape))
        return forward(self, *a, input_ids=input_ids, **k)

    monkeypatch.setattr(type(frozen), "forward", watched)
    monkeypatch.setattr(loop, "FIXED_TOKENS", {"cpu": 0, "cuda": 0})
    (rows, _), answers = train(frozen, split, pack)
    assert min(shape[0] for shape in shapes) == 2 and len({shape[1] for shape in shapes}) > 1
    shapes.clear()
    monkeypatch.setattr(loop, "length_groups", lambda split, rows, fixed: [(rows, LENGTH)])
    [whole], [expected] = train(frozen, split, [spec])
    assert set(shapes) == {(micro or 6, LENGTH)}
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in whole], abs=1e-5)
    assert torch.equal(answers[0], expected)


@pytest.mark.parametrize("method", ["adalora", "pissa", "lora_ga"])
def test_a_pack_that_was_stopped_goes_on_to_the_same_bits(frozen, split, method):
    spec = spec_of(method, 4, dropout=0.2)
    pack = [*company(method, 3), spec]
    assert train(frozen, split, pack, stop=5)[0] == train(frozen, split, pack)[0]


def test_an_early_end_leaves_the_other_runs_bit_identical_and_its_own_result_as_it_was(frozen, split):
    """A short run stands still after its end, its budget too, whatever the others go on to do."""
    short = spec_of("adalora", 5, steps=4, **{"log_every": 1})
    long = spec_of("dora", 6)
    (rows, others), answers = train(frozen, split, [short, long])
    [solo], [expected] = train(frozen, split, [short])
    assert [row["budget"] for row in rows] == [row["budget"] for row in solo] and len(rows) == 4
    assert torch.equal(answers[0], expected)
    whole = replace(short, train=replace(short.train, steps=STEPS))
    (_, unhurried), _ = train(frozen, split, [whole, long])
    assert others == unhurried


@pytest.mark.parametrize("delta", ["lora", "dora"])
def test_gradients_are_those_of_vmap_over_the_unmodified_model(frozen, split, delta):
    """Each run's gradient, by functorch over dense weights that are written out; away from B = 0."""
    specs = [spec_of(delta, seed, alpha=2.0 + seed, targets="attention") for seed in (1, 2, 3)]
    trainer = trainer_of(frozen, split, specs)
    draw = torch.Generator().manual_seed(1)
    for t in trainer.attached.trained:
        t.parameter.data += 0.1 * torch.randn(t.parameter.shape, generator=draw)
    trainer.attached.before_step()
    trainer._forward_backward(2)
    parameters = {t.name: t.parameter.detach() for t in trainer.attached.trained}
    batches = [order.take(2, 6) for order in trainer.orders]
    modules = [name.removesuffix(".deltas.0.A") for name in parameters if name.endswith(".A")]
    W = dict(frozen.named_parameters())

    def loss(own, scale, ids, mask, labels):
        replaced = {name: own[name] for name in ("classifier.weight", "classifier.bias")}
        for module in modules:
            A, B = own[f"{module}.deltas.0.A"], own[f"{module}.deltas.0.B"]
            dense = W[f"{module}.weight"] + scale * B @ A
            if delta == "dora":
                dense = (
                    own[f"{module}.deltas.0.m"][:, None] * dense / dense.detach().norm(dim=1, keepdim=True)
                )
            replaced[f"{module}.weight"] = dense
        given = {"input_ids": ids, "attention_mask": torch.where(mask[:, None, None] > 0, 0.0, -1e30)}
        logits = functional_call(frozen, replaced, kwargs=given).logits
        return F.cross_entropy(logits, labels)

    scales = torch.tensor([spec.alpha / spec.r for spec in specs])
    ids, mask, labels = (
        torch.stack([getattr(split, name)[rows] for rows in batches])
        for name in ("input_ids", "attention_mask", "labels")
    )
    expected = vmap(grad(loss), randomness="error")(parameters, scales, ids, mask, labels)
    assert len(modules) == 8
    for t in trainer.attached.trained:
        assert_close(t.parameter.grad, expected[t.name], rtol=1e-4, atol=1e-6)
        assert t.parameter.grad.flatten(1).norm(dim=1).min() > 1e-4


def test_the_trained_tensors_of_a_run_have_the_names_of_a_solo_run(frozen, split):
    spec = spec_of("dora", 7, targets="all")
    alone = trainer_of(frozen, split, [spec]).attached.tensors(0)
    pack = [*company("dora", 4), spec]
    packed = trainer_of(frozen, split, pack).attached.tensors(4)
    assert list(packed) == list(alone)
    assert all(torch.equal(packed[name], alone[name]) for name in alone)
