"""Synthetic studies with a known truth, written in the documented schema, with none of our own code.

A test example i of run (variant v, seed s) is answered correctly when

    a z_i + b z_s + c z_vi + e z_vsi  <  Phi^-1(accuracy of the cell) * sqrt(a^2 + b^2 + c^2 + e^2)

so that its expected accuracy is exact, while examples, seeds and variant-by-example effects add their noise.
"""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import norm

SCALING = {"rslora": "alpha_over_sqrt_r"}


class StudyWriter:
    """Writes run folders below `root`; every method returns plain data so that a test can tamper with it."""

    def __init__(self, root: Path, *, n_examples: int = 200, noise=(1.0, 0.06, 0.4, 0.5), seed: int = 0):
        self.root, self.n, self.noise = Path(root), n_examples, noise
        self.rng = np.random.default_rng(seed)
        self.z_example = self.rng.standard_normal(n_examples)
        self.z_seed, self.z_cell = {}, {}

    def spec(self, variant="lora", r=8, seed=0, **changes) -> dict:
        """A resolved spec as the engine records it. Dotted changes reach into the nested parts."""
        axes = {
            "delta": variant if variant in ("dora", "adalora") else "lora", "storage": "fp32",
            "grouping": "uniform", "scaling": SCALING.get(variant, "alpha_over_r"), "controller": "none",
        }  # fmt: skip
        spec = {
            "variant": variant, "method": "adapters", "r": r, "alpha": 16.0, "targets": "qv",
            "model": "minilm", "dataset": "scipy_topics", "lr": 0.005, "seed": seed,
            "study": self.root.name, "variant_axes": axes, "variant_options": {"dropout": 0.0},
            "model_options": {}, "dataset_options": {"max_length": 48},
            "train": {
                "steps": 150, "batch_size": 16, "warmup": 0.1, "schedule": "linear", "head_lr": 0.005,
                "precision": "fp32", "clip": 1.0,
            },
        }  # fmt: skip
        if variant in ("full", "probe"):
            spec = {k: v for k, v in spec.items() if k not in ("r", "alpha", "targets", "variant_options")}
            spec |= {"method": variant, "variant_axes": {"storage": "fp32"}}
        for key, value in changes.items():
            place, *path = spec, *key.split("__")
            for part in path[:-1]:
                place = place[part]
            place[path[-1]] = value
        return spec

    def scores(self, spec: dict, accuracy: float) -> np.ndarray:
        """The 0/1 scores (n_examples,) of one run whose expected accuracy is `accuracy`."""
        a, b, c, e = self.noise
        cell = json.dumps([spec["variant"], spec.get("r"), spec["dataset"]])
        z_seed = self.z_seed.setdefault(spec["seed"], self.rng.standard_normal())
        z_cell = self.z_cell.setdefault(cell, self.rng.standard_normal(self.n))
        latent = a * self.z_example + b * z_seed + c * z_cell + e * self.rng.standard_normal(self.n)
        return (latent < norm.ppf(accuracy) * np.sqrt(a * a + b * b + c * c + e * e)).astype(float)

    def run(
        self, spec: dict, accuracy=0.7, *, status="completed", history=True, predictions=True, phase="run",
        **record,
    ):  # fmt: skip
        """Write one run folder and return its record."""
        text = json.dumps({k: v for k, v in spec.items() if k != "study"}, sort_keys=True)
        targets = spec.get("targets", "none")
        parts = [
            spec["variant"], f"r{spec['r']}" if "r" in spec else "",
            targets if isinstance(targets, str) else "list", spec["dataset"], f"s{spec['seed']}",
            hashlib.sha256((phase + text).encode()).hexdigest()[:8],
        ]  # fmt: skip
        run_id = re.sub(r"[^a-z0-9_-]+", "_", "-".join(p for p in parts if p))
        folder = self.root / run_id
        folder.mkdir(parents=True, exist_ok=True)
        scores = self.scores(spec, accuracy)
        content = {
            "schema": 1, "run_id": run_id, "study": spec["study"], "status": status, "phase": phase,
            "spec": spec, "primary": {"metric": "accuracy", "goal": "max"}, "cost": self._cost(spec),
            "data": self._data(spec), "env": self._env(), "deviations": [], "files": {},
        }  # fmt: skip
        if status == "completed":
            content["metrics"] = {
                "test/accuracy": float(scores.mean()), "test/loss": 1.9 - 1.4 * accuracy,
                "validation/accuracy": float(np.round(accuracy + 0.01 * self.rng.standard_normal(), 4)),
                "validation/loss": 1.85 - 1.3 * accuracy, "best/validation/accuracy": accuracy,
                "best/step": 150,
            }  # fmt: skip
            if phase == "tune":  # never tested
                content["metrics"] = {k: v for k, v in content["metrics"].items() if "test/" not in k}
        else:
            error = {"kind": "diverged", "message": "the loss was not finite at step 41"}
            content |= {"metrics": {}, "error": error}
        content |= record
        (folder / "spec.json").write_text(json.dumps(spec))
        if history:
            self._history(folder, spec, accuracy, status)
        if predictions == "flat":  # every example scores what the whole test set does
            metric = content["primary"]["metric"]
            scores = np.full(self.n, content["metrics"][f"test/{metric}"])
        if predictions and status == "completed" and phase != "tune":
            self._predictions(folder, scores)
        (folder / "record.json").write_text(json.dumps(content))
        return content

    def grid(
        self, variants=("lora", "dora"), ranks=(4, 8, 16), seeds=(0,), *, effects=None, base=0.68, **changes
    ):
        """The product of variants, ranks and seeds.

        `effects` maps a variant to what it adds to the accuracy.
        """
        return [
            self.run(
                self.spec(v, r, s, **changes), base + 0.01 * np.log2(max(r, 1)) + (effects or {}).get(v, 0.0)
            )
            for v in variants
            for r in ranks
            for s in seeds
        ]

    def _cost(self, spec):
        r, v = spec.get("r") or 0, spec["variant"]
        per_rank = {"adalora": 13824}.get(v, 9216) * r
        adapter = 22_713_216 if v == "full" else per_rank + (4608 if v == "dora" else 0)
        step = {"dora": 262.0, "adalora": 255.0, "full": 420.0, "probe": 95.0}.get(v, 228.0) + 0.4 * r
        return {
            "train_seconds": step * 0.15, "step_ms": step, "step_ms_low": 0.99 * step,
            "step_ms_high": 1.01 * step, "busy_cores": 1.9, "load_per_core": 1.0,
            "tokens_per_second": 768e3 / step, "peak_bytes": 610_000_000 + 4000 * adapter // 1000,
            "trainable_parameters": adapter + 5005,
            "total_parameters": 22_718_221 + (0 if v == "full" else adapter), "adapter_bytes": 4 * adapter,
            "base_bytes": 90_852_864,
        }  # fmt: skip

    def _data(self, spec):
        digest = hashlib.sha256(spec["dataset"].encode()).hexdigest()
        data = {"train_sha256": digest, "validation_sha256": digest[::-1], "test_sha256": digest}
        return data | {"train_rows": 2260, "validation_rows": 480, "test_rows": self.n}

    def _env(self):
        return {
            "git_sha": "0123456789abcdef0123456789abcdef01234567",
            "dirty": False,
            "code_sha256": "c0de" * 16,
            "versions": {"torch": "2.13.0", "transformers": "5.14.0", "numpy": "2.4.6"},
        } | {"device": "cpu", "host": "bench-1", "python": "3.12.4", "threads": 2}

    def _history(self, folder, spec, accuracy, status):
        steps, level, rows = spec["train"].get("steps", 150), 1.9 - 1.4 * accuracy, []
        for step in range(5, steps + 1, 5):
            fade = np.exp(-step / (0.25 * steps))
            loss = level + (2.5 - level) * fade + 0.05 * self.rng.standard_normal()
            if status == "diverged" and step > 40:
                break
            known = {"grad_norm": 0.4 + round(fade, 4), "lr": spec["lr"]}
            rows.append({"step": step, "loss": round(float(loss), 4), **known})
            if step % max(5, steps // 15 * 5) == 0:
                loss = round(float(level + 0.08 + (2.5 - level) * fade), 4)
                found = {"validation/accuracy": accuracy - 0.5 * fade, "validation/loss": loss}
                rows.append({"step": step, **found})
        (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def _predictions(self, folder, scores):
        label, wrong = np.zeros(self.n, int), (1 - scores).astype(int)
        columns = {"label": label, "prediction": wrong, "score": scores, "loss": 1.5 - scores}
        table = pa.table({"id": [f"t{i}" for i in range(self.n)], **columns})
        pq.write_table(table, folder / "predictions.parquet")


@pytest.fixture
def writer(tmp_path):
    """A function that makes a StudyWriter below the test's own folder."""
    return lambda name="demo", **options: StudyWriter(tmp_path / name, **options)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The report folder of a small study with one seed, built once with images; tests only look at it."""
    from analysis import report

    w = StudyWriter(tmp_path_factory.mktemp("runs") / "demo")
    w.grid()
    return report.build(w.root).parent


@pytest.fixture
def judged():
    """A function that reads a study and judges it: rows of the comparisons by (variant, r)."""
    from analysis.compare import verdicts
    from analysis.runs import cells, load

    def judge(w, *, pool=False, **options):
        study = load.read(w.root, pool=pool)
        found = verdicts.verdicts(study, cells.cells(study), **options)
        return {(row["variant"], row["r"]): row for _, row in found.table.iterrows()}, found

    return judge
