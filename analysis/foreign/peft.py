"""PEFT's method comparison (huggingface/peft, method_comparison): one JSON file per run.

A file holds run_info (train_config, peft_config), train_info (metrics by step, the last of which has the test
accuracy) and meta_info (versions, machine). The method's name is that of the experiment, without the model:
"lora/llama-3.2-3B-rank32" is lora-rank32. The number of test questions is not in the file; MetaMathQA is
tested on GSM8K's, and counts as such where every accuracy is a share of them.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.foreign.result import Result, status_of
from analysis.foreign.tables import parsed
from experiments.errors import UserError

QUESTIONS = {"gsm8k": 1319}  # test examples by the name of the data in meta_info
_NEUTRAL = ("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
            "inference_mode", "megatron_config", "megatron_core", "rank_pattern")  # fmt: skip
_SETUP = ("max_steps", "batch_size", "max_seq_length", "lr_scheduler", "dtype", "query_template")
_PLAIN = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "init_lora_weights", "fan_in_fan_out",
          "qalora_group_size")  # fmt: skip # of a LoraConfig, what plain LoRA may set
_ADDED = {"dora": "use_dora", "rslora": "use_rslora", "qalora": "use_qalora", "bdlora": "use_bdlora"}


def read(path: Path, metric: str | None = None) -> list[Result]:
    """The one run of a file."""
    content = parsed(path)
    try:
        run, trained = content["run_info"], content["train_info"]
        setup, config = run["train_config"], run.get("peft_config") or {}
        rows, name, model = trained["metrics"], str(run["experiment_name"]), str(setup["model_id"])
        kwargs = setup.get("optimizer_kwargs") or {}
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path.name} is no result of PEFT's method comparison: it lacks {error}. It needs run_info with "
            "train_config and experiment_name, and train_info with metrics."
        ) from error
    if metric not in (None, "accuracy"):
        raise UserError(f"PEFT's method comparison has the metric accuracy alone, not {metric!r}.")
    test = [row["test accuracy"] for row in rows if row.get("test accuracy") is not None]
    valid = [row["valid accuracy"] for row in rows if row.get("valid accuracy") is not None]
    failed = status_of(str(trained.get("status", "")), path.name)
    status = failed if failed != "completed" or test or valid else "failed"
    losses = [row["train loss"] for row in rows if isinstance(row.get("train loss"), int | float)]
    if losses and not math.isfinite(losses[-1]):
        status = "diverged"
    data = (content.get("meta_info") or {}).get("dataset_info") or {}
    meta = content.get("meta_info") or {}
    options = {k: v for k, v in config.items() if k not in _NEUTRAL and v not in (None, False, [], {})}
    options |= {k: v for k, v in kwargs.items() if k not in ("lr", "r", "lora_alpha")}
    options |= {"peft_type": config.get("peft_type") or "none"}
    options |= {"optimizer": setup.get("optimizer_type") or "AdamW"}
    method = _name(name, model)
    return [
        Result(
            place=path.name,
            method=method,
            task="metamathqa" if "metamath" in data else "unknown",
            metric="accuracy",
            seed=setup.get("seed"),
            score=test[-1] if test and status == "completed" else None,
            validation=valid[-1] if valid and status == "completed" else None,
            n=next((n for key, n in QUESTIONS.items() if key in data and _is_share(test, n)), None),
            model=model,
            lr=kwargs.get("lr"),
            status=status,
            train={key: setup[key] for key in _SETUP if setup.get(key) is not None},
            options={key: sorted(v) if isinstance(v, list) else v for key, v in options.items()},
            cost=_cost(trained, rows),
            versions=_versions(meta.get("package_info") or {}),
            device=(meta.get("system_info") or {}).get("accelerator"),
            stated="status" in trained,
            plain=_is_plain(config, setup),
            inactive=_inactive(method, config, setup),
        )
    ]


def _name(experiment: str, model: str) -> str:
    """The experiment's name without its model's."""
    name = re.sub(re.escape(model.rsplit("/", 1)[-1]), "", experiment, flags=re.IGNORECASE)
    return re.sub(r"[/\s-]+", "-", name).strip("-").lower()


def _is_share(accuracies: list[float], n: int) -> bool:
    return all(abs(value * n - round(value * n)) < 1e-6 * n for value in accuracies)


def _cost(trained: Mapping[str, Any], rows: list[Mapping[str, Any]]) -> dict[str, float]:
    tokens = [row["tokens / sec"] for row in rows if row.get("tokens / sec")]
    steps = max((row.get("step", 0) for row in rows), default=0)
    seconds = trained.get("train_time")
    found = {
        "trainable_parameters": trained.get("num_trainable_params"),
        "total_parameters": trained.get("num_total_params"),
        "peak_bytes": trained.get("accelerator_memory_max"),
        "adapter_bytes": trained.get("file_size"),
        "train_seconds": seconds,
        "step_ms": 1e3 * seconds / steps if seconds and steps else None,
        "tokens_per_second": sum(tokens) / len(tokens) if tokens else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _versions(packages: Mapping[str, Any]) -> dict[str, str]:
    suffix = "-version"
    return {
        key.removesuffix(suffix): str(value)
        for key, value in packages.items()
        if key.endswith(suffix) and value is not None
    }


def _is_plain(config: Mapping[str, Any], setup: Mapping[str, Any]) -> bool:
    """Whether a run is LoRA as its paper has it, on the targets that PEFT gives this model by default."""
    added = {
        k for k, v in config.items() if k not in (*_PLAIN, *_NEUTRAL) and v not in (None, False, [], {}, "")
    }
    usual = config.get("init_lora_weights", True) is True and setup.get("optimizer_type", "AdamW") == "AdamW"
    targets = set(config.get("target_modules") or ["q_proj", "v_proj"]) == {"q_proj", "v_proj"}
    return config.get("peft_type") == "LORA" and not added and usual and targets


def _inactive(method: str, config: Mapping[str, Any], setup: Mapping[str, Any]) -> str:
    """Why the method that a run is named after was never at work; empty where nothing speaks against it."""
    for name, flag in _ADDED.items():
        if name in method.split("-") and flag in config and not config[flag]:
            return f"its configuration has {flag} off"
    ratio = (setup.get("optimizer_kwargs") or {}).get("loraplus_lr_ratio")
    if ("lora+" in method or "loraplus" in method) and not ratio:
        return "its optimiser has no loraplus_lr_ratio"
    if config.get("peft_type") == "ADALORA":
        pattern = config.get("rank_pattern") or {}
        if not pattern:
            return "AdaLoRA never allocated a rank: the saved configuration has no rank_pattern"
        if all(all(kept) for kept in pattern.values()):
            return "AdaLoRA's ranks never changed: its rank_pattern keeps every direction"
    return ""
