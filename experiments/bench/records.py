"""A study of made-up records, in the documented schema: what a large report is measured on."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.bench.fake import conclude, specs_of
from experiments.record import RunFolder
from experiments.spec import RunSpec

VARIANTS = ("lora", "rslora", "loraplus", "dora", "adalora")
DATASETS = ("first", "second", "third", "fourth")


def write_study(folder: Path, *, runs: int, steps: int, examples: int, datasets: int = len(DATASETS)) -> None:
    """Write `runs` run folders: as many seeds as it takes of every variant, rank, target and dataset."""
    made = specs_of(
        f"variant={','.join(VARIANTS)}", "r=4,8,16,32,64", "targets=qv,all", f"train.steps={steps}"
    )
    cells = [
        replace(spec, study=folder.name, model="made_up", model_options={}, dataset=name, dataset_options={})
        for spec in made
        for name in DATASETS[:datasets]
    ]
    rng = np.random.default_rng(0)
    for i in range(runs):
        seed, cell = divmod(i, len(cells))
        _write(replace(cells[cell], seed=seed), folder, examples=examples, rng=rng)


def _write(spec: RunSpec, study: Path, *, examples: int, rng: np.random.Generator) -> None:
    run, r, steps = RunFolder(study / f"{spec.cell()}-s{spec.seed}"), spec.r or 1, spec.train.steps or 1
    run.path.mkdir(parents=True)
    level = 0.6 + 0.02 * math.log2(r) + 0.01 * VARIANTS.index(spec.variant)
    scores = (rng.random(examples) < level).astype(float)
    table = {"id": [f"t{i}" for i in range(examples)], "score": scores, "loss": 1.5 - scores}
    pq.write_table(pa.table(table), run.predictions)
    losses = 1.2 + 1.2 * np.exp(-np.arange(steps) / (steps / 4)) + 0.05 * rng.standard_normal(steps)
    rows: list[dict[str, Any]] = [
        {"step": i + 1, "loss": float(loss), "grad_norm": 1.0, "lr": spec.lr} for i, loss in enumerate(losses)
    ]
    for share in (1 / 3, 2 / 3, 1):
        step = round(share * steps)
        rows.insert(step, {"step": step, "validation/loss": 1.5, "validation/accuracy": level})
    conclude(
        run,
        spec.as_record(),
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
