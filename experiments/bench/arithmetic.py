"""The least that a step can cost: its multiplications and additions, and the bytes of weights it has to read.

For T tokens, N weights in linear maps, P trained in the adapters, L blocks, S tokens in a text, width d:

    frozen model, forward and dX        4 N T
    attention, forward and backward     6 L T S d
    LoRA                                6 P T
    DoRA      beside LoRA               2 r sum(d_in d_out) per step, and 4 T sum(d_out) elementwise
    AdaLoRA   beside LoRA               2 r^2 sum(d_in + d_out) per step
    weights are read twice; other forms are not counted

A step takes at least the longer of arithmetic / rate and bytes / bandwidth, both measured here.
"""

import time
from collections.abc import Callable

import torch

from experiments.bench.contenders import run_config
from experiments.bench.workload import Workload
from variants import backbone_linears, get, linear_shapes


def operations(work: Workload, variant: str, *, r: int, targets: str) -> float:
    """Floating-point operations of a step."""
    config = work.model.config
    blocks, width = config.num_hidden_layers, config.hidden_size
    weights = sum(module.weight.numel() for module in backbone_linears(work.model).values())
    shapes = linear_shapes(work.model, targets).values()
    run = run_config(work, variant, r=r, targets=targets)
    rank = get("delta", run.axis("delta")).initial_rank(r, run.options)
    length, edges = work.batch.input_ids.shape[1], sum(d_in + d_out for d_in, d_out in shapes)
    total = 4.0 * weights * work.tokens + 6.0 * blocks * work.tokens * length * width
    total += 6.0 * rank * edges * work.tokens
    if run.axis("delta") == "dora":
        total += 2.0 * r * sum(d_in * d_out for d_in, d_out in shapes)
        total += 4.0 * work.tokens * sum(d_out for _, d_out in shapes)
    if run.axis("delta") == "adalora":
        total += 2.0 * rank**2 * edges
    return total


COUNTED = ("lora", "dora", "adalora")  # deltas


def least_ms(work: Workload, variant: str, *, r: int, targets: str, rate: float, bandwidth: float) -> float:
    """Milliseconds that a step takes at least, at `rate` operations and `bandwidth` bytes a second."""
    read = 2 * sum(module.weight.nbytes for module in backbone_linears(work.model).values())
    return 1000 * max(operations(work, variant, r=r, targets=targets) / rate, read / bandwidth)


def rate_of(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a square product of this type, at its best of several."""
    size = 1024 if device.type == "cpu" else 8192
    a, b = torch.ones(2, size, size, dtype=dtype, device=device)
    return 2 * size**3 / _best(lambda: a @ b)


def measured_bandwidth(work: Workload) -> float:
    """Bytes a second that a reduction reads, at its best of several."""
    data = torch.ones(64 * 2**20 if work.device.type == "cpu" else 2**30, device=work.device)
    return data.nbytes / _best(data.sum)


def _best(action: Callable[[], object]) -> float:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
