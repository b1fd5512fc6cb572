"""The pack: runs that train together train as they would alone, and none can hurt another."""

import dataclasses
import itertools
import math

import pytest
import torch

from experiments.spec import RunSpec, Train
from experiments.training.loop import Callback, Trainer, evaluation_steps, run_config, schedule, total_steps
from variants import attach

STEPS = 30
AXES = {
    "delta": "lora",
    "scaling": "alpha_over_r",
    "storage": "fp32",
    "grouping": "uniform",
    "controller": "none",
}


def make_spec(seed=0, *, lr=5e-3, r=4, dropout=0.0, options=None, train=None, variant="lora", **axes):
    return RunSpec(
        study="test", variant=variant, method="adapters", r=r, alpha=16.0, targets="qv",
        axes={**AXES, **axes}, options={"dropout": dropout, **(options or {})},
        model="tiny", model_options={}, dataset="toy", dataset_options={}, lr=lr, seed=seed,
        tracker={"name": "none"},
        train=Train(
            **{"steps": STEPS, "batch_size": 6, "head_lr": lr, "evaluations": 2, "log_every": 1}
            | (train or {})
        ),
    )  # fmt: skip


ADALORA = {
    "delta": "adalora", "controller": "adalora_budget", "variant": "adalora", "r": 3,
    "options": {
        "init_r_ratio": 1.5, "beta1": 0.85, "beta2": 0.85, "orth_weight": 0.1, "t_init": 3, "t_final": 9,
        "interval": 2,
    },
}  # fmt: skip
MIXED = [
    make_spec(1, r=2, lr=1e-2),
    make_spec(2, r=8, lr=3e-3, dropout=0.2, train={"clip": 0.1, "schedule": "cosine", "weight_decay": 0.1}),
    make_spec(3, r=4, lr=5e-3, delta="dora", dropout=0.1, variant="dora"),
    make_spec(4, lr=8e-3, **ADALORA),
    make_spec(5, r=4, lr=4e-3, variant="loraplus", grouping="lora_plus", options={"lr_ratio": 4.0}),
]


class Rows(Callback):
    """Keeps the rows of each run."""

    def __init__(self, rows):
        self.rows = rows

    def on_rows(self, k, rows):
        self.rows[k].extend(rows)


def trained(frozen, split, specs, *, poison=None, until=None, state=None):
    """Train a pack on a copy of the model; returns the trainer and the history rows of each run."""
    import copy

    rows = [[] for _ in specs]
    attached = attach(copy.deepcopy(frozen), [run_config(s, steps=STEPS) for s in specs])
    trainer = Trainer(specs, attached, split)
    if poison is not None:
        step, k = poison
        before = attached.before_step

        def before_step():
            before()
            if attached.clock.step == step:
                for t in attached.trained:
                    if t.runs.start <= k < t.runs.stop:
                        t.parameter.data[k - t.runs.start] = float("nan")

        attached.before_step = before_step
    if state is not None:
        trainer.load_state_dict(state)
    last = STEPS if until is None else until
    trainer.run([Rows(rows)], should_stop=lambda: trainer.progress.step >= last)
    return trainer, rows


def tensors(trainer, k):
    return {
        t.name: t.parameter.detach()[k - t.runs.start].clone()
        for t in trainer.attached.trained
        if t.runs.start <= k < t.runs.stop
    }


def test_each_run_of_a_mixed_pack_equals_its_solo_twin(frozen, split):
    _, packed = trained(frozen, split, MIXED)
    for k, spec in enumerate(MIXED):
        _, [solo] = trained(frozen, split, [spec])
        assert len(solo) == len(packed[k]) == STEPS
        assert solo[0]["loss"] != solo[-1]["loss"]
        gaps = [abs(a["loss"] - b["loss"]) for a, b in zip(solo, packed[k], strict=True)]
        assert max(gaps) <= 1e-5, f"{spec.variant} r={spec.r}"


def test_a_nan_in_one_run_leaves_the_others_bit_identical(frozen, split):
    clean, clean_rows = trained(frozen, split, MIXED)
    hurt, hurt_rows = trained(frozen, split, MIXED, poison=(4, 1))
    assert hurt.diverged_at == [None, 5, None, None, None]
    assert len(hurt_rows[1]) == 5
    assert math.isnan(hurt_rows[1][-1]["loss"])
    for k in (0, 2, 3, 4):
        assert hurt_rows[k] == clean_rows[k]
        theirs = tensors(clean, k)
        assert all(torch.equal(value, theirs[name]) for name, value in tensors(hurt, k).items())


@pytest.mark.parametrize("spec", MIXED, ids=lambda s: f"{s.variant}-r{s.r}")
def test_a_stopped_run_goes_on_to_the_same_bits(frozen, split, spec):
    import io

    whole, [rows] = trained(frozen, split, [spec])
    first, [before] = trained(frozen, split, [spec], until=13)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    second, [after] = trained(frozen, split, [spec], state=state)
    assert before + after == rows
    expected = tensors(whole, 0)
    assert all(torch.equal(value, expected[name]) for name, value in tensors(second, 0).items())


def test_micro_batches_give_the_gradient_of_the_whole_batch(frozen, split):
    _, [whole] = trained(frozen, split, [make_spec(1)])
    _, [parts] = trained(frozen, split, [make_spec(1, train={"micro_batch_size": 2})])
    assert [row["loss"] for row in parts] == pytest.approx([row["loss"] for row in whole], abs=1e-5)


def test_neither_accumulation_nor_clipping_shifts_the_budget_of_adalora(frozen, split):
    def pruned(**train):
        trainer, [rows] = trained(frozen, split, [make_spec(4, lr=8e-3, train=train, **ADALORA)])
        facts = trainer.attached.summary(0)
        return [(row["budget"], row["budget_realised"]) for row in rows], facts["rank_pattern"]

    budgets, ranks = pruned()
    assert pruned(micro_batch_size=2) == (budgets, ranks)
    clipped, _ = pruned(clip=0.01)
    assert clipped == budgets
    assert budgets[0] != budgets[-1] and sum(ranks.values()) == budgets[-1][1]


def test_gradient_checkpointing_changes_no_number_of_a_run_with_dropout(frozen, split):
    spec = make_spec(2, r=4, dropout=0.3)
    import copy

    attached = attach(copy.deepcopy(frozen), [run_config(spec, steps=STEPS)])
    attached.model.gradient_checkpointing_enable({"use_reentrant": False})
    rows = []
    Trainer([spec], attached, split).run([Rows([rows])])
    _, [plain] = trained(frozen, split, [spec])
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in plain], abs=1e-6)


def test_runs_that_share_a_seed_see_the_same_first_batch_and_different_seeds_do_not(frozen, split):
    trainer, _ = trained(frozen, split, [make_spec(1), make_spec(1, delta="dora"), make_spec(2)], until=0)
    first, second, other = (order.take(0, 6).tolist() for order in trainer.orders)
    assert first == second != other


def test_a_pack_must_agree_on_what_it_shares(frozen, split):
    with pytest.raises(ValueError, match=r"train\.batch_size"):
        trained(frozen, split, [make_spec(1), make_spec(2, train={"batch_size": 4})])


def test_the_schedule_warms_up_and_then_falls_to_the_end():
    train = Train(steps=150, warmup=0.1)
    values = [schedule(train, step=step, steps=150) for step in range(150)]
    assert values[0] == pytest.approx(1 / 15)
    assert values[14] == values[15] == 1.0
    assert values[-1] == pytest.approx(1 / 135)
    assert all(a > b for a, b in itertools.pairwise(values[15:]))
    flat = dataclasses.replace(train, schedule="constant")
    assert {schedule(flat, step=step, steps=150) for step in range(15, 150)} == {1.0}


def test_epochs_become_steps_and_validation_ends_with_the_run():
    train = Train(steps=None, epochs=2.5, batch_size=16, evaluations=3)
    assert total_steps(train, 100) == 16
    assert sorted(evaluation_steps(train, 16)) == [5, 11, 16]
