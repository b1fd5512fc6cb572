"""One run as PEFT's users train it: a process of its own, transformers' Trainer, PEFT's layers.

    python -m experiments.bench.trainer variant=dora r=4 train.steps=40      # prints JSON: seconds, accuracy

Model, data, rows, rates, schedule, clipping and evaluations are those of the same words for run.py; batches
are padded to their longest text, as Trainer's own collator does it.
"""

import json
import sys
import tempfile
import time
import warnings
from typing import Any

import torch

from experiments.bench.fake import specs_of
from experiments.config.settings import total_steps
from experiments.spec import RunSpec
from experiments.training.loader import Loader

SCALED = {"alpha_over_r": False, "alpha_over_sqrt_r": True}


def main(words: list[str]) -> None:
    """Train, test and print."""
    from transformers import Trainer, TrainingArguments, get_linear_schedule_with_warmup

    started = time.perf_counter()
    [spec] = specs_of(*words)
    model, _, task = Loader()(spec)
    train, steps = spec.train, total_steps(spec.train, task.rows["train"])
    adapted = _adapted(model, spec)
    optimiser = torch.optim.AdamW(_groups(adapted, spec), weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimiser, round(train.warmup * steps), steps)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=train.batch_size,
            per_device_eval_batch_size=train.eval_batch_size, eval_strategy="steps",
            eval_steps=max(1, steps // train.evaluations), logging_steps=train.log_every, save_strategy="no",
            report_to=[], max_grad_norm=train.clip, seed=spec.seed, disable_tqdm=True, use_cpu=not
            torch.cuda.is_available(),
        )  # fmt: skip
        trainer = Trainer(
            adapted, arguments, data_collator=_padded, train_dataset=_rows(task.splits["train"]),
            eval_dataset=_rows(task.splits["validation"]), optimizers=(optimiser, schedule),
        )  # fmt: skip
        trainer.train()
        answers = trainer.predict(_rows(task.splits["test"]))
        adapted.save_pretrained(folder)
    right = float((answers.predictions.argmax(-1) == answers.label_ids).mean())
    print(json.dumps({"seconds": time.perf_counter() - started, "accuracy": right}))


def _adapted(model: Any, spec: RunSpec) -> Any:
    from peft import LoraConfig, get_peft_model

    from variants import resolve

    names = sorted({name for found in resolve(model, spec.targets or "qv").values() for name in found})
    config = LoraConfig(
        r=spec.r, lora_alpha=spec.alpha, target_modules=names, task_type="SEQ_CLS", lora_dropout=0.0,
        use_dora=spec.axes["delta"] == "dora", use_rslora=SCALED[spec.axes["scaling"]],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, config)


def _groups(model: Any, spec: RunSpec) -> list[dict[str, Any]]:
    """The rates of the run: the adapter's, B's where it has one of its own, the head's."""
    ratio = float(spec.options.get("lr_ratio") or 1.0)
    rates = {"head": spec.train.head_lr or spec.lr, "B": spec.lr * ratio, "rest": spec.lr}
    groups: dict[str, list[Any]] = {name: [] for name in rates}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "head" if "classifier" in name else "B" if "lora_B" in name else "rest"
            groups[kind].append(parameter)
    return [{"params": groups[name], "lr": rate} for name, rate in rates.items()]


def _rows(split: Any) -> list[dict[str, Any]]:
    lengths = split.attention_mask.sum(1).tolist()
    return [
        {"input_ids": ids[:n], "labels": label}
        for ids, n, label in zip(split.input_ids, lengths, split.labels.tolist(), strict=True)
    ]


def _padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    pad = torch.nn.utils.rnn.pad_sequence
    ids = [row["input_ids"] for row in rows]
    return {
        "input_ids": pad(ids, batch_first=True),
        "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
