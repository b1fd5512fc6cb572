"""A training step of each variant against PEFT's, and both against the same frozen model with no adapter.

That model is the floor. What a layer adds is `(ours - floor) / (PEFT - floor)`. Model, batch, precision,
thread count, optimiser (AdamW) and clipping are the same for all; they take turns in one process.
"""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from experiments import models
from experiments.batches import Batch
from experiments.bench.turns import in_turn, ratio
from experiments.optimise import AdamSettings, PackedAdamW
from experiments.train import autocast
from variants import RunConfig, attach, rates

AXES = {"scaling": "alpha_over_r", "storage": "fp32", "grouping": "uniform", "controller": "none"}
LR, CLIP = 1e-4, 1.0


def measure(
    model: torch.nn.Module,
    batch: Batch,
    *,
    variant_options: dict[str, dict],
    r: int = 8,
    targets: str = "qv",
    precision: str = "fp32",
    rounds: int = 30,
) -> list[dict]:
    """Rows with variant, milliseconds of ours, of PEFT's and of the floor, and both ratios.

    Args:
        model: A frozen classification model.
        batch: The batch that every step sees.
        variant_options: For each of lora, dora, adalora, the options of its variant.
        r: Rank; PEFT's AdaLoRA gets the same initial rank as ours.
        targets: "qv" or "all".
        precision: "fp32" or "bf16" (autocast).
        rounds: How often each contender steps.
    """
    device = batch.input_ids.device
    forward = _forward(batch, precision, device)
    rows = []
    for variant, options in variant_options.items():
        contenders = {
            "floor": _floor(models.clone(model), forward, targets),
            "ours": _ours(
                models.clone(model), forward, variant, options, r=r, targets=targets, device=device
            ),
            "peft": _peft(models.clone(model, share=False), forward, variant, r=r, targets=targets),
        }
        times = in_turn(contenders, rounds=rounds)
        rows.append(
            {
                "variant": variant,
                "targets": targets,
                "precision": precision,
                "threads": torch.get_num_threads(),
                "device": device.type,
                **{f"{name}_ms": round(t.median, 2) for name, t in times.items()},
                "step ours/PEFT": ratio(times["ours"], times["peft"]),
                "added ours/PEFT": ratio(times["ours"], times["peft"], floor=times["floor"]),
            }
        )
    return rows


def _forward(batch: Batch, precision: str, device: torch.device) -> Callable[[torch.nn.Module], torch.Tensor]:
    def forward(model: torch.nn.Module) -> torch.Tensor:
        with autocast(precision, device):
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        return F.cross_entropy(logits.float(), batch.labels)

    return forward


def _floor(model, forward, targets: str) -> Callable[[], object]:
    """Forward and backward through the frozen layers alone.

    The graph begins where the first adapter would be.
    """
    from variants import resolve

    def begin_graph(module, inputs, output):
        return output if output.requires_grad else output.detach().requires_grad_()

    model.requires_grad_(False)
    for name in {n for names in resolve(model, targets).values() for n in names}:
        model.get_submodule(name).register_forward_hook(begin_graph)
    return lambda: forward(model).backward()


def _ours(
    model, forward, variant: str, options: dict, *, r: int, targets: str, device
) -> Callable[[], object]:
    controller = "adalora_budget" if variant == "adalora" else "none"
    config = RunConfig(
        seed=0, method="adapters", targets=targets, r=r, alpha=16.0, dropout=0.0,
        axes={**AXES, "delta": variant, "controller": controller}, options=options, steps=10_000,
    )  # fmt: skip
    attached = attach(model, [config], device=device)
    optimiser = PackedAdamW(
        attached.trained, rates=[rates(config, LR, LR, 0.0)], settings=[AdamSettings(clip=CLIP)]
    )
    factor, alive = torch.ones(1, device=device), torch.ones(1, dtype=torch.bool, device=device)
    attached.model.train()

    def step() -> None:
        attached.clock.step += 1
        optimiser.zero_grad()
        attached.before_step()
        (forward(attached.model) + attached.penalty().sum()).backward()
        optimiser.clip(optimiser.grad_norm())
        optimiser.step(factor, alive)
        attached.after_step(attached.clock.step)

    return step


def _peft(model, forward, variant: str, *, r: int, targets: str) -> Callable[[], object]:
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    from variants import resolve

    names = sorted({n for found in resolve(model, targets).values() for n in found})
    common = {"lora_alpha": 16, "target_modules": names, "lora_dropout": 0.0, "task_type": "SEQ_CLS"}
    if variant == "adalora":
        config = AdaLoraConfig(init_r=-(-3 * r // 2), target_r=r, total_step=10_000, tinit=1200, tfinal=5000,
                               deltaT=1, orth_reg_weight=0.1, **common)  # fmt: skip
    else:
        config = LoraConfig(r=r, use_dora=variant == "dora", **common)
    adapted = get_peft_model(model, config)
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0)
    adapted.train()
    count = iter(range(10**9))

    def step() -> None:
        loss = forward(adapted)
        if variant == "adalora":
            loss = loss + _orthogonality(adapted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
        if variant == "adalora":
            adapted.base_model.update_and_allocate(next(count))
        optimiser.zero_grad()

    return step


def _orthogonality(adapted) -> torch.Tensor:
    """The penalty as PEFT computes it; its own forward adds it only where the model itself returns a loss."""
    total, count = 0.0, 0
    for name, p in adapted.named_parameters():
        if ("lora_A" in name or "lora_B" in name) and p.requires_grad:
            gram = p @ p.T if "lora_A" in name else p.T @ p
            total, count = (
                total + torch.norm(gram - torch.eye(*gram.shape, out=torch.empty_like(gram)), p="fro"),
                count + 1,
            )
    return 0.1 * total / count


def write_table(rows: list[dict], path: Path | None) -> None:
    """The rows on the terminal, and as CSV where a path is given."""
    columns = list(rows[0])
    lines = [[str(row[c]) for c in columns] for row in rows]
    widths = [max(len(c), *(len(line[i]) for line in lines)) for i, c in enumerate(columns)]
    for line in [columns, *lines]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    if path is not None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([columns, *lines])
        print(f"written to {path}", file=sys.stderr)
