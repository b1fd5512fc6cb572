"""A whole pack, stopped and resumed, against slow transcriptions of its methods in float64.

Plain modules, torch's AdamW and clip_grad_norm_, micro-batches, the authors' allocator: only the random
streams and the order of the data are ours.
"""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from experiments.spec import RunSpec, Train
from experiments.training.batch import Order
from experiments.training.loop import Callback, Trainer, run_config, schedule
from variants import attach, generator

STEPS, BATCH, MICRO = 20, 6, 2
ADALORA = {"delta": "adalora", "controller": "adalora_budget"}
PRUNING = {"init_r_ratio": 1.5, "orth_weight": 0.1, "t_init": 3, "t_final": 6, "interval": 2}


def spec_of(seed, r, axes, *, lr=6e-3, options=None, **train):
    return RunSpec(
        study="test", variant="any", method="adapters", r=r, alpha=16.0, targets="qv",
        axes={"delta": "lora", "scaling": "alpha_over_r", "storage": "fp32", "grouping": "uniform",
              "controller": "none", **axes},
        options={"dropout": 0.0, **(options or {})}, model="tiny", model_options={}, dataset="toy",
        dataset_options={}, lr=lr, seed=seed, tracker={"name": "none"},
        train=Train(steps=STEPS, batch_size=BATCH, micro_batch_size=MICRO, head_lr=4e-3, evaluations=1,
                    log_every=1, **{"clip": 0.4, "weight_decay": 0.05, "warmup": 0.1, **train}),
    )  # fmt: skip


SPECS = [
    spec_of(11, 3, ADALORA, options={**PRUNING, "dropout": 0.15}),
    spec_of(12, 2, {"delta": "dora", "grouping": "lora_plus"}, options={"lr_ratio": 3.0, "dropout": 0.1}),
    spec_of(
        13, 5, {**ADALORA, "scaling": "alpha_over_sqrt_r"}, lr=2e-2,
        options={"init_r_ratio": 2, "orth_weight": 0.5, "t_init": 0.2, "t_final": 0.4, "interval": 3},
    ),
    spec_of(14, 7, {"scaling": "alpha_over_sqrt_r"}, options={"dropout": 0.3}, clip=0.0),
    spec_of(15, 4, {**ADALORA, "grouping": "lora_plus"}, options={**PRUNING, "lr_ratio": 2.0}),
]  # fmt: skip


class Rows(Callback):
    """Keeps the rows of each run."""

    def __init__(self, rows):
        self.rows = rows

    def on_rows(self, k, rows):
        self.rows[k].extend(rows)


def pack(frozen, split):
    attached = attach(copy.deepcopy(frozen), [run_config(spec, steps=STEPS) for spec in SPECS])
    return Trainer(SPECS, attached, split)


class Written(nn.Module):
    """A linear map with its change, as the paper or its authors' code writes it."""

    def __init__(self, plain, name, spec, start, clock):
        super().__init__()
        self.W, self.b = plain.weight.detach().double(), plain.bias.detach().double()
        self.name, self.spec, self.clock = name, spec, clock
        for symbol, value in start.items():
            setattr(self, symbol, nn.Parameter(value.double().clone()))
        self.rank = len(next(iter(start.values())))
        root = spec.axes["scaling"] == "alpha_over_sqrt_r"
        self.s = spec.alpha / (math.sqrt(self.rank) if root else self.rank)

    def forward(self, x):
        Wx, xd, s = x @ self.W.T, self.dropped(x), self.s
        if hasattr(self, "L"):
            return Wx + self.b + s * ((xd @ self.Q.T * self.L) @ self.P.T)
        change = s * (xd @ self.A.T @ self.B.T)
        if not hasattr(self, "m"):
            return Wx + self.b + change
        g = self.m / (self.W + s * self.B @ self.A).norm(dim=1).detach()
        return Wx + self.b + (g - 1) * (xd @ self.W.T) + g * change

    def dropped(self, x):
        if not (p := self.spec.options["dropout"]):
            return x
        source = generator(self.spec.seed, "dropout", self.name, *self.clock)
        mask = torch.empty(x.shape[0] * x.shape[1], x.shape[2]).bernoulli_(1 - p, generator=source)
        return x * mask.view(x.shape).double() / (1 - p)


class Allocator:
    """The authors' RankAllocator, called after the optimiser's step."""

    def __init__(self, maps, spec):
        self.maps, o = maps, spec.options
        self.t_i, self.t_f = (v if v >= 1 else int(v * STEPS) for v in (o["t_init"], o["t_final"]))
        self.interval = o["interval"]
        self.b_0, self.b_T = sum(m.rank for m in maps), spec.r * len(maps)
        self.mean, self.spread = {}, {}

    @torch.no_grad()
    def __call__(self, step):
        if step < STEPS - self.t_f:
            for p in (p for m in self.maps for p in m.parameters()):
                importance = (p * p.grad).abs()
                self.mean[p] = 0.85 * self.mean.get(p, 0) + 0.15 * importance
                self.spread[p] = 0.85 * self.spread.get(p, 0) + 0.15 * (importance - self.mean[p]).abs()
        if step <= self.t_i:
            return
        budget, mask = self.b_T, True
        if step <= STEPS - self.t_f:
            left = 1 - (step - self.t_i) / (STEPS - self.t_f - self.t_i)
            budget, mask = int(self.b_T + (self.b_0 - self.b_T) * left**3), step % self.interval == 0
        if not mask or budget == self.b_0:
            return
        s = lambda p: self.mean[p] * self.spread[p]  # noqa: E731
        scores = [s(m.L) + s(m.P).mean(0) + s(m.Q).mean(1) for m in self.maps]
        threshold = torch.cat(scores).kthvalue(self.b_0 - budget).values
        for m, score in zip(self.maps, scores, strict=True):
            m.L[score <= threshold] = 0


def penalty(maps):
    gaps = [G - torch.eye(len(G), dtype=G.dtype) for m in maps for G in (m.P.T @ m.P, m.Q @ m.Q.T)]
    return sum(gap.norm() for gap in gaps) / len(gaps)


def written_out(frozen, split, spec, start, head):
    """Losses, and maps by name, of one run trained by the transcription; ranks left after every step."""
    model, clock, t, o = copy.deepcopy(frozen).double().train(), [0, 0], spec.train, spec.options
    maps = {name: Written(model.get_submodule(name), name, spec, v, clock) for name, v in start.items()}
    for name, written in maps.items():
        model.set_submodule(name, written)
    model.classifier.load_state_dict(head)
    model.classifier.requires_grad_(True)
    ratio = o["lr_ratio"] if spec.axes["grouping"] == "lora_plus" else 1
    groups = [
        {"params": [p], "lr": spec.lr * (ratio if symbol in "BP" else 1),
         "weight_decay": 0.0 if symbol == "m" else t.weight_decay}
        for written in maps.values() for symbol, p in written.named_parameters()
    ]  # fmt: skip
    groups += [
        {"params": [p], "lr": t.head_lr, "weight_decay": t.weight_decay * (p.ndim > 1)}
        for p in model.classifier.parameters()
    ]
    optimiser = torch.optim.AdamW(groups, betas=(t.beta1, t.beta2), eps=t.eps)
    factor = lambda step: schedule(t, step=min(step, STEPS - 1), steps=STEPS)  # noqa: E731
    rates, order = torch.optim.lr_scheduler.LambdaLR(optimiser, factor), Order(spec.seed, len(split.ids))
    prunes = spec.axes["delta"] == "adalora"
    allocate = Allocator(list(maps.values()), spec) if prunes else lambda step: None
    losses, ranks = [], []
    for step in range(STEPS):
        rows, total = order.take(step, BATCH), 0.0
        for micro, part in enumerate(rows.split(MICRO)):
            clock[:] = step, micro
            logits = model(input_ids=split.input_ids[part], attention_mask=split.attention_mask[part]).logits
            loss = F.cross_entropy(logits, split.labels[part], reduction="sum") / BATCH
            total += loss.item()
            extra = o["orth_weight"] * penalty(maps.values()) * MICRO / BATCH if prunes else 0.0
            (loss + extra).backward()
        if t.clip:
            nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], t.clip)
        optimiser.step()
        rates.step()
        allocate(step)
        optimiser.zero_grad()
        losses.append(total)
        ranks.append({name: int(m.L.count_nonzero()) for name, m in maps.items()} if prunes else {})
    return losses, maps, ranks


def ranks_of(rows):
    """The rank of every module at every step: a row has those that differ from the row before."""
    standing, found = {}, []
    for row in rows:
        standing |= {key.removeprefix("rank/"): v for key, v in row.items() if key.startswith("rank/")}
        found.append(dict(standing))
    return found


def test_every_run_is_its_transcription(frozen, split):
    rows = [[] for _ in SPECS]
    trainer = pack(frozen, split)
    starts, heads = [], []
    for k in range(len(SPECS)):
        slots = trainer.attached.slots(k).items()
        starts.append({n: {s: getattr(h.delta, s).detach()[i] for s in h.delta.roles} for n, (h, i) in slots})
        starts[k] = copy.deepcopy(starts[k])
        heads.append({leaf: p.detach()[k].clone() for leaf, p in
                      trainer.attached.heads["classifier"].named_parameters()})  # fmt: skip
    first = pack(frozen, split)
    first.run([Rows(rows)], should_stop=lambda: first.progress.step >= 7)
    trainer = pack(frozen, split)
    trainer.load_state_dict(copy.deepcopy(first.state_dict()))
    trainer.run([Rows(rows)])
    for k, spec in enumerate(SPECS):
        losses, maps, ranks = written_out(frozen, split, spec, starts[k], heads[k])
        assert [row["loss"] for row in rows[k]] == pytest.approx(losses, abs=1e-4)
        assert ranks_of(rows[k]) == ranks
        for name, (held, i) in trainer.attached.slots(k).items():
            for symbol in held.delta.roles:
                ours = getattr(held.delta, symbol).detach()[i].double()
                torch.testing.assert_close(ours, getattr(maps[name], symbol).detach(), rtol=1e-2, atol=1e-4)
    assert min(sum(row.values()) for row in ranks) == 4 * 4  # the last run was pruned from 6 to 4 each
