"""A study of made-up records, in the documented schema: what a large report is measured on."""

import hashlib
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.bench.fake import conclude
from experiments.config.settings import Train
from experiments.record import RunFolder

VARIANTS = ("lora", "rslora", "loraplus", "dora", "adalora")
RANKS = (4, 8, 16, 32, 64)
TARGETS = ("qv", "all")
DATASETS = ("first", "second", "third", "fourth")


def write_study(folder: Path, *, runs: int, steps: int, examples: int, datasets: int = len(DATASETS)) -> None:
    """Write `runs` run folders: as many seeds as it takes of every variant, rank, target and dataset."""
    cells = list(itertools.product(VARIANTS, RANKS, TARGETS, DATASETS[:datasets]))
    rng = np.random.default_rng(0)
    for i in range(runs):
        seed, cell = divmod(i, len(cells))
        _write(folder, *cells[cell], seed=seed, steps=steps, examples=examples, rng=rng)


def _write(
    study: Path, variant: str, r: int, targets: str, dataset: str, *,
    seed: int, steps: int, examples: int, rng: np.random.Generator,
) -> None:  # fmt: skip
    run = RunFolder(study / f"{variant}-r{r}-{targets}-{dataset}-s{seed}")
    run.path.mkdir(parents=True)
    level = 0.6 + 0.02 * math.log2(r) + 0.01 * VARIANTS.index(variant)
    scores = (rng.random(examples) < level).astype(float)
    table = {"id": [f"t{i}" for i in range(examples)], "score": scores, "loss": 1.5 - scores}
    pq.write_table(pa.table(table), run.predictions)
    losses = 1.2 + 1.2 * np.exp(-np.arange(steps) / (steps / 4)) + 0.05 * rng.standard_normal(steps)
    rows: list[dict[str, Any]] = [
        {"step": i + 1, "loss": float(loss), "grad_norm": 1.0, "lr": 0.002} for i, loss in enumerate(losses)
    ]
    for share in (1 / 3, 2 / 3, 1):
        step = round(share * steps)
        rows.insert(step, {"step": step, "validation/loss": 1.5, "validation/accuracy": level})
    conclude(
        run,
        _spec(variant, r, targets, dataset, seed=seed, study=study.name, steps=steps),
        history="".join(json.dumps(row) + "\n" for row in rows),
        metrics={
            "test/accuracy": float(scores.mean()),
            "test/loss": 1.5,
            "validation/accuracy": level + 0.01 * float(rng.standard_normal()),
            "validation/loss": 1.5,
        },
        cost={
            "train_seconds": 60.0,
            "step_ms": 400.0,
            "tokens_per_second": 1000.0,
            "peak_bytes": 10**9,
            "trainable_parameters": 10_000 * r,
            "total_parameters": 22_000_000,
            "adapter_bytes": 40_000 * r,
            "base_bytes": 90_000_000,
        },
        data={f"{split}_rows": examples for split in ("train", "validation", "test")},
        env={"code_sha256": hashlib.sha256(b"").hexdigest(), "device": "made up", "versions": {}},
    )


def _spec(
    variant: str, r: int, targets: str, dataset: str, *, seed: int, study: str, steps: int
) -> dict[str, Any]:
    axes = {
        "delta": variant if variant in ("dora", "adalora") else "lora",
        "scaling": "alpha_over_sqrt_r" if variant == "rslora" else "alpha_over_r",
        "storage": "fp32",
        "grouping": "lora_plus" if variant == "loraplus" else "uniform",
        "controller": "none",
    }
    return {
        "study": study,
        "variant": variant,
        "method": "adapters",
        "r": r,
        "alpha": 16.0,
        "targets": targets,
        "model": "made_up",
        "model_options": {},
        "dataset": dataset,
        "dataset_options": {},
        "lr": 0.002,
        "seed": seed,
        "train": {key: value for key, value in vars(Train(steps=steps)).items() if value is not None},
        "variant_axes": axes,
        "variant_options": {"dropout": 0.0},
    }
