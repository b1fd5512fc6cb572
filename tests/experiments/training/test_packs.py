"""Packs: whatever its method, its place and its company, a run trains as it trains alone.

Every loss within 1e-5 of the solo run's, every answer the same.
"""

import copy
import io
from dataclasses import replace

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.testing import assert_close

from experiments.spec import RunSpec, Train
from experiments.training import loop
from experiments.training.loop import Callback, Trainer, run_config
from variants import attach

STEPS, LENGTH = 9, 12
ADALORA = {"init_r_ratio": 1.5, "orth_weight": 0.1, "t_init": 1, "t_final": 2, "interval": 2}
METHODS = {
    "lora": {},
    "rslora": {"scaling": "alpha_over_sqrt_r"},
    "loraplus": {"grouping": "lora_plus", "lr_ratio": 4.0},
    "dora": {"delta": "dora"},
    "dora, base reused": {"delta": "dora", "reuse_base_with_dropout": True},
    "adalora": {"delta": "adalora", "controller": "adalora_budget", **ADALORA},
    "qlora": {"storage": "nf4", "double_quant": True, "compute": "fp32"},
    "qdora": {"storage": "nf4", "double_quant": True, "compute": "fp32", "delta": "dora"},
    "int4": {"storage": "int4", "double_quant": False, "compute": "fp32"},
    "bf16 base": {"storage": "bf16"},
    "pissa": {"init": "pissa"},
    "pissa, dora": {"init": "pissa", "delta": "dora"},
    "eva": {"init": "eva", "init_batches": 3},
    "lora_ga": {"init": "lora_ga", "init_batches": 2, "init_gamma": 16.0},
    "corda": {"init": "corda", "init_batches": 2 * STEPS},  # more than it has steps
    "loftq": {"init": "loftq", "storage": "nf4", "double_quant": True, "compute": "fp32"},
    "riemannian": {"gradient": "riemannian"},
    "lora_pro": {"gradient": "lora_pro", "delta": "dora"},
    "learned scales": {"learn_scale": "layer"},
    "a learned scale": {"learn_scale": "model", "gradient": "riemannian"},
    "probe": {"method": "probe", "delta": "none"},
    "pfeiffer": {"method": "pfeiffer", "delta": "none", "bottleneck": 5},
    "prefix": {"method": "prefix", "delta": "none", "length": 3, "inner": 5},
    "ptuning_v2": {"method": "ptuning_v2", "delta": "none", "length": 3},
    "prompt": {"method": "prompt", "delta": "none", "length": 3},
    "ia3 on nf4": {
        "method": "ia3",
        "delta": "none",
        "storage": "nf4",
        "double_quant": True,
        "compute": "fp32",
    },
}
PLAIN = {
    "delta": "lora",
    "scaling": "alpha_over_r",
    "storage": "fp32",
    "grouping": "uniform",
    "gradient": "none",
}


def spec_of(method="lora", seed=0, *, r=3, alpha=5.0, targets="qv", lr=6e-3, dropout=0.0, **train):
    chosen = dict(METHODS[method])
    kind = chosen.pop("method", "adapters")
    axes = {axis: chosen.pop(axis, plain) for axis, plain in {**PLAIN, "controller": "none"}.items()}
    return RunSpec(
        study="test", variant=method, method=kind, r=r, alpha=alpha, targets=targets, axes=axes,
        options={"dropout": dropout, **chosen}, model="tiny", model_options={}, dataset="toy",
        dataset_options={}, lr=lr, seed=seed, tracker={"name": "none"},
        train=Train(**{"steps": STEPS, "batch_size": 6, "head_lr": 4e-3, "evaluations": 2, "log_every": 2,
                       "weight_decay": 0.02, **train}),
    )  # fmt: skip


def company(spec, count):
    """Other runs that may share the pack of `spec`, unlike it in all that is free; some end before it."""
    lengths = (STEPS + 3, STEPS - 4, STEPS)
    schedules = ("cosine", "constant", "linear")
    others = []
    for i in range(count):
        mixed = ("dora", "adalora", "lora", "loraplus")[i % 4]
        other = spec_of(
            mixed if spec.method == "adapters" else spec.variant, 10 + i, r=2 + i % 4, alpha=3.0 + i,
            targets=("all", "qv", "mlp")[i % 3], lr=2e-3 * (1 + i % 5), dropout=(0.0, 0.3)[i % 2],
            steps=lengths[i % 3], schedule=schedules[i % 3], clip=(0.2, 0.0)[i % 2],
        )  # fmt: skip
        axes = {**other.axes, "storage": spec.axes["storage"]}
        stored = {key: spec.options[key] for key in ("double_quant", "compute") if key in spec.options}
        shared = {key: getattr(spec.train, key) for key in ("micro_batch_size", "gradient_checkpointing")}
        others.append(
            replace(
                other, axes=axes, options={**other.options, **stored}, train=replace(other.train, **shared)
            )
        )
    return others


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


def check(frozen, split, spec, *, size, place, stop=None):
    others = company(spec, size - 1)
    pack = [*others[:place], spec, *others[place:]]
    rows, answers = train(frozen, split, pack, stop=stop)
    [solo], [expected] = train(frozen, split, [spec])
    assert [row["step"] for row in rows[place]] == list(range(1, STEPS + 1))
    for ours, alone in zip(rows[place], solo, strict=True):
        assert ours.keys() == alone.keys()
        assert ours["loss"] == pytest.approx(alone["loss"], abs=1e-5, rel=0)
        assert ours["lr"] == alone["lr"]
    assert solo[0]["loss"] != solo[-1]["loss"]
    assert torch.equal(answers[place], expected)
    assert {spec.train.steps: len(r) for spec, r in zip(pack, rows, strict=True)} == {
        spec.train.steps: spec.train.steps for spec in pack
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_every_method_trains_in_a_pack_as_it_trains_alone(frozen, split, method):
    check(frozen, split, spec_of(method, 1, r=4), size=3, place=1)


@pytest.mark.parametrize("method", METHODS)
def test_so_it_does_with_dropout_accumulation_checkpointing_and_a_resume(frozen, split, method):
    spec = spec_of(method, 2, dropout=0.25, micro_batch_size=2, gradient_checkpointing=True)
    check(frozen, split, spec, size=5, place=4, stop=5)


@pytest.mark.grid
@pytest.mark.slow
@pytest.mark.parametrize("stop", [None, 4])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("micro", [None, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize(("size", "place"), [(1, 0), (2, 0), (2, 1), (5, 0), (5, 2), (16, 9)])
@pytest.mark.parametrize("method", METHODS)
def test_the_grid(frozen, split, method, size, place, dropout, micro, checkpointing, stop):
    spec = spec_of(method, 3, dropout=dropout, micro_batch_size=micro, gradient_checkpointing=checkpointing)
    check(frozen, split, spec, size=size, place=place, stop=stop)


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
    pack = [*company(spec, 3), spec]
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
    pack = [*company(spec, 4), spec]
    packed = trainer_of(frozen, split, pack).attached.tensors(4)
    assert list(packed) == list(alone)
    assert all(torch.equal(packed[name], alone[name]) for name in alone)
