"""The training loop. It trains packs: K runs at once on one frozen base. A solo run is a pack of one.

Read `Trainer.run` from top to bottom. Every quantity has the run axis in front; no line mixes the rows of two
runs, so a run's numbers are the same whether it trains alone or among others, and a run that diverges harms
nobody.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from experiments.config.settings import total_steps as total_steps
from experiments.data import Encoded
from experiments.models.first_token import at_first_token, shortened
from experiments.spec import PACK, RunSpec, Train
from experiments.stopwatch import Stopwatch
from experiments.training.adamw import AdamSettings, PackedAdamW
from experiments.training.batch import Batch, Order, gather, length_groups
from experiments.training.losses import RowLosses, backward_of_tokens, count_targets, plain_head, row_losses
from variants import Attached, RunConfig, rates

if TYPE_CHECKING:
    from experiments.training.sharded.group import Group

FIXED_TOKENS = {"cpu": 48, "cuda": 8_192}  # what a forward pass costs beside its tokens, in tokens


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
class Progress:
    """How far each run of the pack is, and what it cost so far."""

    alive: Tensor  # (K,) bool: not diverged
    step: int = 0
    interval_ms: list[float] = field(default_factory=list)  # mean step time between two flushes
    seconds: float = 0.0  # training alone: no evaluation, no logging
    tokens: int = 0  # real tokens of all runs, without padding
    watch: Stopwatch = field(default_factory=Stopwatch)  # of this process, not of those before a resume


class Callback:
    """What else happens during training; each method does nothing unless a subclass says otherwise."""

    def on_gradient(self, step: int) -> None:
        """At each step (from 0), before clipping."""

    def on_rows(self, k: int, rows: list[dict]) -> None:
        """The history rows of run k, as they are flushed."""

    def on_validation(self, step: int) -> None:
        """Validation is due after `step` steps; the model is in evaluation mode."""

    def on_boundary(self) -> None:
        """After a flush and its validation: the state can be saved here."""


@dataclass
class Trainer:
    """Trains one pack. Each run has its own number of steps; one that has taken them stays as it is."""

    specs: Sequence[RunSpec]
    attached: Attached
    train_split: Encoded
    losses: Callable[[Tensor, Tensor], RowLosses] | None = None  # of logits and labels; None: by their form
    group: "Group | None" = None  # the processes that train a run together, this one among them

    def __post_init__(self):
        first = self.specs[0].train
        for key in (*PACK, "base_dropout"):
            values = {getattr(s.train, key) for s in self.specs}
            if len(values) > 1:
                raise ValueError(
                    f"the runs of one pack must share train.{key}, but have {sorted(map(str, values))}"
                )
        micro = first.micro_batch_size or first.batch_size
        if self.group is not None and (len(self.specs) > 1 or micro % self.group.size):
            raise ValueError(
                f"{self.group.size} processes train one run together and share out its batches, of {micro} "
                f"rows at a time here, and these are {len(self.specs)} runs: give fsdp a divisor of that."
            )
        self.train, self.K = first, len(self.specs)
        self.rows = len(self.train_split.ids)
        self.ends = [total_steps(s.train, self.rows) for s in self.specs]  # the number of steps of each run
        self.steps = max(self.ends)
        self.due = [evaluation_steps(s.train, end) for s, end in zip(self.specs, self.ends, strict=True)]
        self.log_every = min(s.train.log_every for s in self.specs)
        self.device = next(self.attached.model.parameters()).device
        self.orders = [Order(s.seed, self.rows) for s in self.specs]
        self.optimiser = PackedAdamW(
            self.attached.trained,
            rates=[
                rates(run_config(s, steps=end), s.lr, s.train.head_lr, s.train.weight_decay)
                for s, end in zip(self.specs, self.ends, strict=True)
            ],
            settings=[
                AdamSettings(s.train.beta1, s.train.beta2, s.train.eps, s.train.clip) for s in self.specs
            ],
            paged=any(s.options.get("paged") for s in self.specs),
        )
        self.progress = Progress(torch.ones(self.K, dtype=torch.bool, device=self.device))
        self._ends = torch.tensor(self.ends, device=self.device)
        self._drops = first.base_dropout > 0 or any(s.options.get("dropout") for s in self.specs)
        self._fixed: float = FIXED_TOKENS.get(self.device.type, FIXED_TOKENS["cuda"])
        if self.group is not None:
            self._fixed = math.inf  # one group of rows, a part of it for each process
        first_rows = gather(self.train_split, torch.zeros(self.K, dtype=torch.long)).to(self.device)
        self._head = None if self.losses or self.group else plain_head(self.attached.model, first_rows)
        self._layer: nn.Module | None = None  # that makes the first token alone
        self._pending: list[tuple[int, Tensor, Tensor, list[float]]] = []
        self.diverged_at: list[int | None] = [None] * self.K  # the step whose loss or gradient was not finite
        self._start()  # inits that see inputs see those of every token
        if not self._drops and self.group is None:
            self._layer = shortened(self.attached.model, first_rows.inputs())

    def _start(self) -> None:
        """Let inits that start from data see each run's first batches, forward and back, without a step."""
        attached, tokens = self.attached, self.progress.tokens
        wanted = [held.delta.waiting[k].batches(held.delta.slots[k]) for held, k in attached.waiting()]
        if any(wanted):
            attached.model.eval()
            with attached.observing():
                for step in range(max(wanted)):
                    attached.clock.step = step
                    self._forward_backward(step)
            self.optimiser.zero_grad()
            self.progress.tokens = tokens
        if waiting := attached.waiting():
            held, k = waiting[0]
            raise ValueError(
                f"init={held.delta.option(k, 'init')} at {held.delta.slots[k].name} has to see the "
                f"{held.delta.waiting[k].needs} of the map before training, and it was not there."
            )

    def validated(self, step: int) -> list[int]:
        """The runs that are validated after `step` steps; a run that has diverged never is again."""
        return [k for k in range(self.K) if step in self.due[k] and self.diverged_at[k] is None]

    def under_way(self) -> Tensor:
        """Which runs have steps left and have not diverged: (K,) bool."""
        return self.progress.alive & (self.progress.step < self._ends)

    def run(
        self, callbacks: Sequence[Callback] = (), *, should_stop: Callable[[], bool] = lambda: False
    ) -> None:
        """From `progress.step` to the end, or until every run has ended or diverged, or until it is to stop.

        Args:
            callbacks: Called in this order.
            should_stop: Called at every step boundary.
        """
        progress, attached, optimiser = self.progress, self.attached, self.optimiser
        if not attached.trained:  # a baseline that trains nothing is at its end
            progress.step = self.steps
            for end in sorted(set(self.ends)):
                for callback in callbacks:
                    callback.on_validation(end)
            return
        attached.model.train()
        progress.watch.start()
        since = progress.step
        while progress.step < self.steps and not should_stop():
            step = progress.step
            optimiser.zero_grad()
            attached.clock.step = step
            if self.group is None:  # else a layer's W is there in its forward pass alone
                attached.before_step()
            loss = self._forward_backward(step)  # (K,), the gradient is in place
            norm = optimiser.grad_norm()  # (K,), before clipping
            for callback in callbacks:
                callback.on_gradient(step)
            progress.alive &= (torch.isfinite(loss) & torch.isfinite(norm)) | (step >= self._ends)
            optimiser.clip(norm)
            attached.before_update()
            ends = zip(self.specs, self.ends, strict=True)
            factors = [schedule(s.train, step=step, steps=end) for s, end in ends]
            optimiser.step(torch.tensor(factors, device=self.device), self.under_way())
            attached.after_step(step, [k for k, end in enumerate(self.ends) if step < end])
            progress.step += 1
            self._pending.append((progress.step, loss, norm, factors))

            validate = any(progress.step in due for due in self.due)
            if validate or progress.step % self.log_every == 0:
                self._synchronise()
                elapsed = progress.watch.stop()
                progress.seconds += elapsed
                progress.interval_ms.append(1000 * elapsed / (progress.step - since))
                self._flush(callbacks)
                if validate and self.validated(progress.step):
                    attached.model.eval()
                    for callback in callbacks:
                        callback.on_validation(progress.step)
                    attached.model.train()
                if progress.alive.any():
                    for callback in callbacks:
                        callback.on_boundary()
                if not self.under_way().any():
                    return
                progress.watch.start()
                since = progress.step
        self._flush(callbacks)

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
        taken = [r for r, end in zip(rows, self.ends, strict=True) if step < end]
        self.progress.tokens += sum(int(self.train_split.attention_mask[r].sum()) for r in taken)
        scale = targets.clamp_min(1).to(self.device)
        loss = torch.zeros(self.K, device=self.device)
        for i, batch in enumerate(self._micro_batches(rows, micro)):
            self.attached.clock.micro, self.attached.clock.mask = i, batch.attention_mask
            first = i == 0 and (self.group is None or self.group.rank == 0)
            loss += self._backward(batch, scale, self.attached.penalty() if first else None)
        if self.group is not None:
            self.group.add_up([loss, *self.optimiser.gradients()])
        return loss

    def _backward(self, batch: Batch, scale: Tensor, penalty: Tensor | None) -> Tensor:
        """Loss of each run over its part of a batch, (K,), detached; the gradient is added."""
        model = self.attached.model
        if self._head is not None:
            return backward_of_tokens(
                model, self._head, batch, scale, precision=self._precision, penalty=penalty
            )
        with at_first_token(self._layer):
            with self._precision():
                logits = model(**batch.inputs()).logits
            part = (self.losses or row_losses)(logits, batch.labels).total.view(self.K, -1).sum(1) / scale
            (part if penalty is None else part + penalty).sum().backward()
        return part.detach()

    def _micro_batches(self, rows: Sequence[Tensor], size: int) -> Iterator[Batch]:
        """`size` rows of each run at a time; without their padding where no dropout mask has its shape."""
        split, whole = self.train_split, self.train_split.input_ids.shape[1]
        for start in range(0, self.train.batch_size, size):
            part = [r[start : start + size] for r in rows]
            groups = [(part, whole)] if self._drops else length_groups(split, part, fixed=self._fixed)
            if self.group is not None:  # all processes pass forward equally often
                groups = [([self.group.part(r) for r in rows], columns) for rows, columns in groups]
            for group, columns in groups:
                yield gather(split, torch.cat(group), columns).to(self.device)

    def _precision(self) -> AbstractContextManager:
        return autocast(self.train.precision, self.device)

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _flush(self, callbacks: Sequence[Callback]) -> None:
        """Hand the rows since the last flush to each run; only here the device is waited for."""
        if not self._pending:
            return
        losses = torch.stack([p[1] for p in self._pending]).tolist()
        norms = torch.stack([p[2] for p in self._pending]).tolist()
        for k, spec in enumerate(self.specs):
            own = [p for p in self._pending if p[0] <= self.ends[k]]
            extra = self.attached.step_log(k) or [{}] * len(own)
            if self.diverged_at[k] is not None or not own:
                continue
            rows: list[dict] = []
            for (step, _, _, factors), loss, norm, more in zip(own, losses, norms, extra, strict=True):
                row = {"step": step, "loss": loss[k], "grad_norm": norm[k], "lr": spec.lr * factors[k]}
                rows.append(row | more)
                if not (math.isfinite(loss[k]) and math.isfinite(norm[k])):
                    self.diverged_at[k] = step
                    break  # the run ended here: later steps of the pack are not its own
            for callback in callbacks:
                callback.on_rows(k, rows)
        self._pending.clear()


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The arithmetic of the forward pass: float32 as it stands, or bfloat16 where autocast deems it safe."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
