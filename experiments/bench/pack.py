"""A training step of a pack against PEFT's steps of the same runs, one after another.

Decoders with random weights, texts without padding, a loss on every token. Three figures: the pack's step
over the sum of PEFT's; what the frozen model's multiplications and additions alone would take at the rate of
the processor, over the pack's step; and the peak memory that another run adds, over what a run takes alone
beyond the base (adapter, optimiser, activations).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from experiments import models
from experiments.bench import contenders
from experiments.bench.arithmetic import rate_of
from experiments.bench.contenders import LR, Contender
from experiments.bench.fake import specs_of
from experiments.bench.memory import peak
from experiments.bench.table import Figure
from experiments.bench.turns import Spread, in_turn, ratio
from experiments.bench.workload import SHAPES, Workload, check_room, random_llama
from experiments.data import Encoded
from experiments.training.batch import Batch
from experiments.training.loop import Trainer, run_config
from experiments.training.pace import advance
from variants import attach, backbone_linears

MEMORY = 1.15
LIMIT = 0.35
RUNS_PER_HOUR = {"0.1b": 10, "0.5b": 8, "1.5b": 3, "3b": 2}  # targets on an H200
ENDLESS = 1_000_000  # steps


@dataclass(frozen=True)
class Setting:
    """What is trained: a shape, the runs' variants in turn, rank and targets, and each run's batch."""

    shape: str
    variants: Sequence[str]
    r: int
    targets: str
    rows: int
    length: int
    precision: str

    @property
    def tokens(self) -> int:
        """Of a run in a step."""
        return self.rows * self.length


def decoder(setting: Setting, device: torch.device) -> nn.Module:
    """A frozen Llama of that shape."""
    check_room(setting.shape, device)
    dtype = torch.bfloat16 if setting.precision == "bf16" and device.type == "cuda" else torch.float32
    return random_llama(*SHAPES[setting.shape], dtype=dtype, device=device, causal=True)


def packed(setting: Setting, model: nn.Module, runs: int) -> Contender:
    """A step of so many runs, as the training loop takes it."""
    specs = [
        specs_of(
            f"variant={setting.variants[k % len(setting.variants)]}", f"r={setting.r}", f"seed={k}",
            f"targets={setting.targets}", f"lr={LR}", f"train.steps={ENDLESS}",
            f"train.batch_size={setting.rows}", f"train.precision={setting.precision}",
        )[0]
        for k in range(runs)
    ]  # fmt: skip
    device = next(model.parameters()).device
    attached = attach(models.clone(model), [run_config(s, steps=ENDLESS) for s in specs], device=device)
    trainer = Trainer(specs, attached, _texts(setting, model))
    return Contender(attached.model, partial(advance, trainer, 1))


def solo(setting: Setting, model: nn.Module, variant: str) -> Contender:
    """A step of one run with PEFT's layers, as its users write one."""
    ids = _texts(setting, model).input_ids[: setting.rows].to(next(model.parameters()).device)
    batch = Batch(ids, torch.ones_like(ids), ids)
    work = Workload(setting.shape, model, batch, setting.precision, "fp32")
    return contenders.peft(work, variant, r=setting.r, targets=setting.targets)


def measure(setting: Setting, sizes: Sequence[int], *, rounds: int, rate: float | None) -> list[Figure]:
    """The figures for packs of these sizes.

    Args:
        setting: What is trained.
        sizes: How many runs a pack holds.
        rounds: How often each takes its turn.
        rate: Operations a second of the processor; None: measured here.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = decoder(setting, device)
    dtype = torch.bfloat16 if setting.precision == "bf16" else torch.float32
    rate = rate or rate_of(dtype, device)
    least_ms = 1000 * operations(setting, model) / rate
    every = {f"peft {v}": solo(setting, model, v) for v in dict.fromkeys(setting.variants)}
    every |= {f"pack {n}": packed(setting, model, n) for n in sizes}
    times = in_turn({name: c.step for name, c in every.items()}, rounds=rounds)
    every.clear()
    base = sum({t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}.values())
    alone = peak(partial(packed, setting, model, 1), shared=model).total
    figures = []
    for n in sizes:
        members = [setting.variants[k % len(setting.variants)] for k in range(n)]
        peft = [sum(each) for each in zip(*(times[f"peft {v}"] for v in members), strict=True)]
        ours, name = times[f"pack {n}"], f"{n} runs"
        goal = RUNS_PER_HOUR.get(setting.shape)
        target = 1 / goal if goal and device.type == "cuda" else None
        figures.append(
            Figure(name, setting.targets, "step / PEFT's, one by one", "ms", Spread.of(ours),
                   Spread.of(peft), ratio(ours, peft), target)
        )  # fmt: skip
        share = [least_ms * n / one for one in ours]
        least = Spread.exact(least_ms * n)
        figures.append(
            Figure(name, setting.targets, "limit / step", "ms", least, Spread.of(ours), Spread.of(share),
                   LIMIT, at_least=True)
        )  # fmt: skip
        if n > 1:
            added = (peak(partial(packed, setting, model, n), shared=model).total - alone) / (n - 1)
            parts = alone - base
            figures.append(
                Figure(name, setting.targets, "memory of another run", "MB", Spread.exact(added / 1e6),
                       Spread.exact(parts / 1e6), Spread.exact(added / parts), MEMORY)
            )  # fmt: skip
    return figures


def operations(setting: Setting, model: nn.Module) -> float:
    """4 (N + H) T, of one run's step: the frozen maps and the head, forward and backward, on T tokens."""
    weights = sum(module.weight.numel() for module in backbone_linears(model).values())
    return 4.0 * (weights + model.get_output_embeddings().weight.numel()) * setting.tokens


def _texts(setting: Setting, model: nn.Module) -> Encoded:
    draw, rows = torch.Generator().manual_seed(0), 8 * setting.rows
    ids = torch.randint(1, model.config.vocab_size, (rows, setting.length), generator=draw)
    return Encoded(tuple(map(str, range(rows))), ids, torch.ones_like(ids), ids.clone(), 0)
