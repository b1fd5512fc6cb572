"""Studies in the formats of others, written by hand from the formats' documentation."""

import csv
import json

import pytest

RATES, CHOSEN = (0.001, 0.002, 0.004), 0.002
EFFECTS = {"lora": 0.0, "dora": 0.08, "rslora": 0.0}


class Published:
    """A list of runs as their authors know them; a test changes it before it is written down."""

    def __init__(self, tmp_path):
        self.tmp_path, self.runs = tmp_path, []

    def clean(self, *, tasks=("rte", "mrpc"), n=20_000, seeds=range(5)):
        """Three rates on validation with seeds of their own, then the chosen one tested on others."""
        wiggle = (0.002, -0.003, 0.001, 0.004, -0.004, 0.003, -0.001)
        for i, task in enumerate(tasks):
            for j, (method, effect) in enumerate(EFFECTS.items()):
                base = dict(method=method, task=task, rank=8, n=n, params=100_000 + 1000 * j)
                for k, lr in enumerate(RATES):
                    for seed in (100, 101):
                        value = round(0.7 + effect - 0.02 * abs(k - 1) + wiggle[(seed + i + j) % 7], 4)
                        self.runs.append(base | dict(lr=lr, seed=seed, validation=value))
                for seed in seeds:
                    value = round(0.71 + effect + wiggle[(2 * seed + i + 3 * j) % 7], 4)
                    run = dict(lr=CHOSEN, seed=seed, validation=round(value + 0.01, 4), test=value)
                    self.runs.append(base | run)
        return self

    def on_test(self, *, method="lora", rates=RATES, seeds=(0, 1, 2), score=0.5, spread=0.01, **more):
        """Every rate of a grid, with nothing but a test score."""
        for k, lr in enumerate(rates):
            for s in seeds:
                value = round(score - 0.03 * abs(k - 1) + spread * ((2 * s + k) % 3 - 1), 4)
                run = dict(method=method, task="gsm8k", lr=lr, seed=s, test=value, n=1319)
                self.runs.append(run | more)
        return self

    def csv(self):
        """One row per run, as a long table with a split."""
        path = self.tmp_path / "results.csv"
        with path.open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(["method", "task", "rank", "lr", "seed", "split", "score", "n", "params"])
            for r in self.runs:
                split = "test" if "test" in r else "validation"
                score = r.get("test", r.get("validation", "nan"))
                keys = ("method", "task", "rank", "lr", "seed")
                out.writerow([*(r.get(k, "") for k in keys), split, score, r["n"], r.get("params", "")])
        return [path]

    def wandb(self, form="csv"):
        """The runs' table of a project that was tracked by ablora's own tracker."""
        rows = []
        for i, r in enumerate(self.runs):
            config = {
                "variant": r["method"],
                "dataset": r["task"],
                "r": r.get("rank"),
                "lr": r["lr"],
                "seed": r["seed"],
                "train": {"steps": 500, "batch_size": 16},
                "data": {"test_rows": r["n"]},
            }
            summary = {"loss": 0.3, "trainable_parameters": r.get("params"), "_runtime": 40}
            summary |= {f"{s}/accuracy": r[s] for s in ("validation", "test") if s in r}
            rows.append({"name": f"run-{i}", "state": r.get("state", "finished")})
            rows[-1] |= {"config": config, "summary": summary}
        path = self.tmp_path / f"export.{form}"
        if form == "json":
            path.write_text(json.dumps(rows))
            return [path]
        with path.open("w", newline="") as file:
            names = ["variant", "dataset", "r", "lr", "seed"]
            scores = ["validation/accuracy", "test/accuracy", "trainable_parameters"]
            out = csv.writer(file)
            out.writerow(["Name", "State", *names, "train.steps", "data.test_rows", *scores])
            for row in rows:
                config, summary = row["config"], row["summary"]
                values = [config[k] for k in names] + [config["train"]["steps"], config["data"]["test_rows"]]
                values += [summary.get(k, "") for k in scores]
                out.writerow([row["name"], row["state"], *("" if v is None else v for v in values)])
        return [path]

    def peft(self, change=lambda content, run: None):
        """One JSON per run, as PEFT's method comparison leaves it; `change` may alter each."""
        paths = []
        for i, r in enumerate(self.runs):
            rows = [{"step": 250, "valid accuracy": r.get("validation"), "train loss": 0.6}]
            rows += [{"step": 250, "test accuracy": r["test"], "train loss": 0.6}] if "test" in r else []
            config = {"peft_type": "LORA", "r": r.get("rank", 8), "lora_alpha": 16, "use_dora": False}
            config |= {"use_rslora": False, "target_modules": ["v_proj", "q_proj"]}
            flag = f"use_{r['method']}"
            config |= {flag: True} if flag in config else {}
            setup = {"model_id": "org/Tiny-1B", "seed": r["seed"], "max_steps": 250, "batch_size": 4}
            setup |= {"optimizer_type": "AdamW", "optimizer_kwargs": {"lr": r["lr"]}}
            content = {
                "run_info": {
                    "experiment_name": f"{r['method']}/tiny-1b-{r['task']}",
                    "train_config": setup,
                    "peft_config": config,
                },
                "train_info": {
                    "metrics": rows,
                    "status": "success",
                    "num_trainable_params": r.get("params"),
                    "train_time": 60.0,
                },
                "meta_info": {
                    "dataset_info": {"metamath": {}, "gsm8k": {}},
                    "package_info": {"peft-version": "0.21.0", "torch-version": "2.13.0"},
                    "system_info": {"accelerator": "X"},
                },
            }
            change(content, r)
            paths.append(self.tmp_path / f"{i:03}.json")
            paths[-1].write_text(json.dumps(content))
        return paths


@pytest.fixture
def published(tmp_path):
    """An empty list of published runs."""
    return Published(tmp_path)


@pytest.fixture
def audited(tmp_path, capsys):
    """A function that audits files; returns the exit code, what was printed, and the open rules."""
    from analysis import audit

    def run(paths, form, *words):
        out = tmp_path / "study"
        code = audit.main([*map(str, paths), "--format", form, "--out", str(out), *words])
        printed = capsys.readouterr()
        text = printed.out + printed.err
        return code, text, [line[4:] for line in text.splitlines() if line.startswith("[ ] ")]

    return run
