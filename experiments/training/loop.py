"""The training loop. It trains packs: K runs at once on one frozen base. A solo run is a pack of one.

Read `Trainer.run` from top to bottom. Every quantity has the run axis in front; no line mixes the rows of two
runs, so a run's numbers are the same whether it trains alone or among others, and a run that diverges harms
nobody.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experiments.config.settings import total_steps as total_steps
from experiments.data import Encoded
from experiments.spec import RunSpec, Train
from experiments.training.adamw import AdamSettings, PackedAdamW
from experiments.training.batch import Batch, Order, gather
from experiments.training.losses import count_targets, row_losses
from variants import Attached, RunConfig, rates

SHARED = (
    "steps",
    "batch_size",
    "micro_batch_size",
    "precision",
    "evaluations",
    "gradient_checkpointing",
    "base_dropout",
)


def run_config(spec: RunSpec, *, steps: int) -> RunConfig:
    """What the variants room needs to know of a run."""
    options = dict(spec.options)
    return RunConfig(
        seed=spec.seed,
        method=spec.method,
        targets=spec.targets,
        r=spec.r,
        alpha=spec.alpha,
        dropout=float(options.pop("dropout", None) or 0.0),
        axes=spec.axes,
        options=options,
        steps=steps,
    )


def schedule(train: Train, *, step: int, steps: int) -> float:
    """The factor on the learning rate at `step` (counted from 0).

    A linear warm-up, then linear, cosine or constant. The warm-up is (step + 1) / warm: transformers'
    step / warm begins with a step at rate 0, which trains nothing and of 10 steps is a tenth. After the
    warm-up the two are equal.
    """
    warm = round(train.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    left = (steps - step) / max(1, steps - warm)  # 1 after the warm-up, towards 0 at the end
    return {"linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left)), "constant": 1.0}[train.schedule]


def evaluation_steps(train: Train, steps: int) -> frozenset[int]:
    """After how many steps validation is read: spread evenly, the last one at the end."""
    return frozenset(round(steps * (i + 1) / train.evaluations) for i in range(train.evaluations)) | {steps}


@dataclass
class Standing:
    """Where each run of the pack stands, and what it cost so far."""

    alive: Tensor  # (K,) bool: neither finished nor diverged
    step: int = 0
    interval_ms: list[float] = field(default_factory=list)  # mean step time between two flushes
    seconds: float = 0.0  # training alone: no evaluation, no logging
    tokens: int = 0  # real tokens of one run, without padding

    @property
    def step_ms(self) -> float | None:
        """Median step time, the first interval (warm-up of caches and kernels) left out."""
        rest = self.interval_ms[1:] or self.interval_ms
        return statistics.median(rest) if rest else None


@dataclass
class Trainer:
    """Trains one pack.

    `on_rows(k, rows)` receives the history rows of run k as they are flushed, `on_validation(step)` is called
    when validation is due, and `should_stop()` is asked at every step boundary.
    """

    specs: Sequence[RunSpec]
    attached: Attached
    train_split: Encoded
    on_rows: Callable[[int, list[dict]], None]
    on_validation: Callable[[int], None]
    should_stop: Callable[[], bool] = lambda: False
    on_gradient: Callable[[int], None] = lambda step: None  # at each step (from 0), before clipping
    on_boundary: Callable[[], None] = lambda: None  # after a flush and its validation: for checkpoints

    def __post_init__(self):
        first = self.specs[0].train
        for key in SHARED:
            values = {getattr(s.train, key) for s in self.specs}
            if len(values) > 1:
                raise ValueError(
                    f"the runs of one pack must share train.{key}, but have {sorted(map(str, values))}"
                )
        self.train, self.K = first, len(self.specs)
        self.rows = len(self.train_split.ids)
        self.steps = total_steps(first, self.rows)
        self.due = evaluation_steps(first, self.steps)
        self.device = next(self.attached.model.parameters()).device
        self.orders = [Order(s.seed, self.rows) for s in self.specs]
        self.optimiser = PackedAdamW(
            self.attached.trained,
            rates=[
                rates(run_config(s, steps=self.steps), s.lr, s.train.head_lr, s.train.weight_decay)
                for s in self.specs
            ],
            settings=[
                AdamSettings(s.train.beta1, s.train.beta2, s.train.eps, s.train.clip) for s in self.specs
            ],
            paged=any(s.options.get("paged") for s in self.specs),
        )
        self.progress = Standing(torch.ones(self.K, dtype=torch.bool, device=self.device))
        self._pending: list[tuple[int, Tensor, Tensor, list[float]]] = []
        self.diverged_at: list[int | None] = [None] * self.K  # the step whose loss or gradient was not finite

    def run(self) -> None:
        """From `progress.step` to the end, or until every run has diverged, or until asked to stop."""
        progress, attached, optimiser = self.progress, self.attached, self.optimiser
        if not attached.trained:  # a baseline that trains nothing is at its end
            progress.step = self.steps
            self.on_validation(self.steps)
            return
        attached.model.train()
        started, since = time.perf_counter(), progress.step
        while progress.step < self.steps and not self.should_stop():
            step = progress.step
            optimiser.zero_grad()
            attached.clock.step = step
            attached.before_step()
            loss = self._forward_backward(step)  # (K,), the gradient is in place
            norm = optimiser.grad_norm()  # (K,), before clipping
            self.on_gradient(step)
            progress.alive &= torch.isfinite(loss) & torch.isfinite(norm)
            optimiser.clip(norm)
            factors = [schedule(s.train, step=step, steps=self.steps) for s in self.specs]
            optimiser.step(torch.tensor(factors, device=self.device), progress.alive)
            attached.after_step(step)
            progress.step += 1
            self._pending.append((progress.step, loss, norm, factors))

            validate = progress.step in self.due
            if validate or progress.step % self.train.log_every == 0:
                self._synchronise()
                elapsed = time.perf_counter() - started
                progress.seconds += elapsed
                progress.interval_ms.append(1000 * elapsed / (progress.step - since))
                self._flush()
                if not progress.alive.any():
                    return
                if validate:
                    attached.model.eval()
                    self.on_validation(progress.step)
                    attached.model.train()
                self.on_boundary()
                started, since = time.perf_counter(), progress.step
        self._flush()

    def state_dict(self) -> dict:
        """Everything that a resumed pack needs.

        Data order and dropout are functions of (seed, step) and need nothing.
        """
        progress = self.progress
        return {
            "step": progress.step,
            "alive": progress.alive,
            "seconds": progress.seconds,
            "tokens": progress.tokens,
            "interval_ms": progress.interval_ms,
            "diverged_at": self.diverged_at,
            "optimiser": self.optimiser.state_dict(),
            "controllers": [self.attached.state_dict(k) for k in range(self.K)],
        }

    def load_state_dict(self, state: dict) -> None:
        """Go back to where `state_dict` was taken, to the same bits."""
        progress = self.progress
        progress.alive.copy_(state["alive"])
        for name in ("step", "seconds", "tokens", "interval_ms"):
            setattr(progress, name, state[name])
        self.diverged_at = state["diverged_at"]
        self.optimiser.load_state_dict(state["optimiser"])
        for k, controller in enumerate(state["controllers"]):
            self.attached.load_state_dict(k, controller)

    def _forward_backward(self, step: int) -> Tensor:
        """Loss of each run over its whole batch, (K,), detached.

        Gradients are accumulated over the micro-batches.
        """
        rows = [order.take(step, self.train.batch_size) for order in self.orders]
        micro = self.train.micro_batch_size or self.train.batch_size
        targets = torch.stack([count_targets(self.train_split.labels[r]).sum() for r in rows])  # (K,)
        self.progress.tokens += int(self.train_split.attention_mask[rows[0]].sum())
        scale = targets.clamp_min(1).to(self.device)
        loss = torch.zeros(self.K, device=self.device)
        for i, batch in enumerate(self._micro_batches(rows, micro)):
            self.attached.clock.micro = i
            with self._precision():
                logits = self.attached.model(
                    input_ids=batch.input_ids, attention_mask=batch.attention_mask
                ).logits
            part = row_losses(logits, batch.labels).total.view(self.K, -1).sum(1) / scale
            loss += part.detach()
            if i == 0:
                part = part + self.attached.penalty()
            part.sum().backward()
        return loss

    def _micro_batches(self, rows: Sequence[Tensor], size: int) -> Iterator[Batch]:
        for start in range(0, self.train.batch_size, size):
            yield gather(self.train_split, torch.cat([r[start : start + size] for r in rows])).to(self.device)

    def _precision(self) -> AbstractContextManager:
        return autocast(self.train.precision, self.device)

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _flush(self) -> None:
        """Hand the rows since the last flush to each run; only here the device is waited for."""
        if not self._pending:
            return
        losses = torch.stack([p[1] for p in self._pending]).tolist()
        norms = torch.stack([p[2] for p in self._pending]).tolist()
        for k, spec in enumerate(self.specs):
            extra = self.attached.step_log(k) or [{}] * len(self._pending)
            if self.diverged_at[k] is not None:
                continue
            rows: list[dict] = []
            for (step, _, _, factors), loss, norm, more in zip(
                self._pending, losses, norms, extra, strict=True
            ):
                row = {"step": step, "loss": loss[k], "grad_norm": norm[k], "lr": spec.lr * factors[k]}
                rows.append(row | more)
                if not (math.isfinite(loss[k]) and math.isfinite(norm[k])):
                    self.diverged_at[k] = step
                    break  # the run ended here: later steps of the pack are not its own
            self.on_rows(k, rows)
        self._pending.clear()


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The arithmetic of the forward pass: float32 as it stands, or bfloat16 where autocast deems it safe."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
