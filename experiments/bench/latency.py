"""A forward pass without training: merged and unmerged models against the base, and against PEFT's.

A merged model is the base's own layers with other numbers in them, so it can only be as fast. What stands
beside the weights (bottleneck adapters, prefixes, prompts) is computed in every pass.
"""

from collections.abc import Callable

import torch
from torch import nn

from experiments.bench import contenders
from experiments.bench.table import Figure
from experiments.bench.turns import Spread, in_turn, ratio
from experiments.bench.workload import Workload
from variants import attach, merge

MERGED_TO_BASE = 1.02  # the same layers: what is beyond 1 is the clock's noise
VARIANTS = ("lora", "dora")
INSERTED = ("houlsby", "pfeiffer", "prefix", "ptuning_v2", "prompt", "ia3")  # whatever the targets are


def measure(work: Workload, *, r: int, targets: str, rounds: int) -> list[Figure]:
    """Figures of merged and unmerged lora and dora on one preset of targets."""
    models: dict[str, nn.Module] = {"base": work.model}
    for variant in VARIANTS:
        run = contenders.run_config(work, variant, r=r, targets=targets)
        attached = attach(work.copy(), [run], device=work.device)
        models[f"{variant} merged"] = merge(attached, 0)
        models[variant] = attached.model
        models[f"{variant}, PEFT"] = contenders.peft_model(work, variant, r=r, targets=targets)
    times = in_turn({name: _forward(work, model) for name, model in models.items()}, rounds=rounds)
    figures = []

    def add(variant: str, what: str, mine: str, other: str, target: float | None = None) -> None:
        ours, against = times[mine], times[other]
        spreads = (Spread.of(ours), Spread.of(against), ratio(ours, against))
        figures.append(Figure(variant, targets, what, "ms", *spreads, target))

    for variant in VARIANTS:
        add(variant, "merged / base's", f"{variant} merged", "base", MERGED_TO_BASE)
        add(variant, "unmerged / base's", variant, "base")
        add(variant, "unmerged / PEFT's", variant, f"{variant}, PEFT")
    return figures


def measure_inserted(work: Workload, *, r: int, targets: str, rounds: int) -> list[Figure]:
    """What each method that stands beside the weights adds to a forward pass, and lora for comparison."""
    models: dict[str, nn.Module] = {"base": work.model}
    for variant in ("lora", *INSERTED):
        run = contenders.run_config(work, variant, r=r, targets=targets)
        attached = attach(work.copy(), [run], device=work.device)
        models[variant] = attached.model
        if attached.inserted is None or attached.inserted.fold:
            models[f"{variant} merged"] = merge(attached, 0)
    times = in_turn({name: _forward(work, model) for name, model in models.items()}, rounds=rounds)
    base = times.pop("base")
    return [
        Figure(name, "-", "a pass / base's", "ms", Spread.of(own), Spread.of(base), ratio(own, base))
        for name, own in times.items()
    ]


def _forward(work: Workload, model: nn.Module) -> Callable[[], object]:
    model.eval()

    def forward() -> None:
        with torch.inference_mode():
            work.logits(model)

    return forward
