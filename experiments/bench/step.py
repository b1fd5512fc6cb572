"""A training step of each variant against PEFT's, and both against the same frozen model with no adapter.

That model is the floor. What a layer adds is (ours - floor) / (PEFT - floor). All that share a base take
turns in one process.
"""

from collections.abc import Sequence

import torch

from experiments.bench import arithmetic, contenders
from experiments.bench.contenders import run_config, storage_of
from experiments.bench.table import Figure
from experiments.bench.turns import Spread, added_ratio, in_turn, ratio
from experiments.bench.workload import Workload

ADDED = {"lora": 0.7, "dora": 0.5, "adalora": 0.6}  # where all maps are adapted
DORA_TO_LORA = 1.10
ON_A_GPU = (0.75, 1024)  # lora on q and v, up to this many tokens


def measure(work: Workload, variants: Sequence[str], *, r: int, targets: str, rounds: int) -> list[Figure]:
    """Figures of the variants on one preset of targets.

    Args:
        work: Model and batch.
        variants: Some of `contenders.VARIANTS`.
        r: Rank; PEFT's AdaLoRA gets the same initial rank as ours.
        targets: A preset, "qv" or "all".
        rounds: How often each contender steps.
    """
    figures = []
    for storage in dict.fromkeys(storage_of(work, variant) for variant in variants):
        same = [variant for variant in variants if storage_of(work, variant) == storage]
        figures += _measure(work, same, r=r, targets=targets, rounds=rounds)
    return figures


def _measure(work: Workload, variants: Sequence[str], *, r: int, targets: str, rounds: int) -> list[Figure]:
    steps = {"floor": contenders.floor(work, targets=targets, variant=variants[0]).step}
    for variant in variants:
        steps[variant] = contenders.ours(work, variant, r=r, targets=targets).step
        steps[f"{variant}, PEFT"] = contenders.peft(work, variant, r=r, targets=targets).step
    times = in_turn(steps, rounds=rounds)
    dtype = torch.bfloat16 if work.precision == "bf16" else torch.float32
    rate, bandwidth = arithmetic.rate_of(dtype, work.device), arithmetic.measured_bandwidth(work)
    figures = []

    def add(variant: str, what: str, against: Spread, value: Spread, target: float | None = None) -> None:
        own = Spread.of(times[variant])
        figures.append(Figure(variant, targets, what, "ms", own, against, value, target))

    for variant in variants:
        mine, peft, floor = times[variant], times[f"{variant}, PEFT"], times["floor"]
        limit, added = _step_target(work, variant, targets), ADDED.get(variant) if targets == "all" else None
        add(variant, "step / PEFT's", Spread.of(peft), ratio(mine, peft), limit)
        add(variant, "added / PEFT's", Spread.of(peft), added_ratio(mine, peft, floor=floor), added)
        add(variant, "step / frozen model's", Spread.of(floor), ratio(mine, floor))
        if variant == "dora" and "lora" in times:
            lora = times["lora"]
            add(variant, "step / our lora's", Spread.of(lora), ratio(mine, lora), DORA_TO_LORA)
        if run_config(work, variant, r=r, targets=targets).axis("delta") in arithmetic.COUNTED:
            least = arithmetic.least_ms(work, variant, r=r, targets=targets, rate=rate, bandwidth=bandwidth)
            add(variant, "step / least possible", Spread.exact(least), ratio(mine, [least] * rounds))
    return figures


def _step_target(work: Workload, variant: str, targets: str) -> float | None:
    if variant in ("qlora", "lora_fa", *contenders.STARTS, *contenders.FORMS, *contenders.BASELINES):
        return 1.0
    if targets != "qv":
        return None
    quick, tokens = ON_A_GPU
    small_gpu = work.device.type == "cuda" and work.tokens <= tokens
    return quick if variant == "lora" and small_gpu else 1.02
