"""The keys of the configuration: types, defaults and bounds. conf/config.yaml and conf/train explain them.

Bounds stand in a field's metadata as `allowed`: [from, to], null for open, ">0" for above; any other list
names the choices. `ranges` in the files of conf/variant and the other groups is written the same way.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from variants._core import registry

# `init` is an axis that specs hold among the options, where it was before it became one: run ids hash it
AXES = tuple(axis for axis in registry.AXES if axis not in ("method", "init"))
STORAGE_OPTIONS = ("double_quant", "compute")  # options of a variant that decide how its base is stored
SHORT = ("r", "alpha", "targets", "lr")  # the short keys that a variant's `uses` may name
FACTS = ("name", "paper", "method", "uses", "ranges")  # of a variant's file: what it is, not to be set
DEFAULTS = ("lr", "head_lr", "targets")  # of a variant's file: what the keys outside mean when they are null


def _key(default: Any, allowed: list[Any] | None = None) -> Any:
    return field(default=default, metadata={"allowed": allowed})


@dataclass(frozen=True)
class Train:
    """How a run is trained."""

    steps: int | None = _key(150, [1, None])
    epochs: float | None = _key(None, [">0", None])
    batch_size: int = _key(16, [1, None])
    micro_batch_size: int | None = _key(None, [1, None])
    warmup: float = _key(0.1, [0, 1])
    schedule: str = _key("linear", ["linear", "cosine", "constant"])
    weight_decay: float = _key(0.0, [0, None])
    clip: float = _key(1.0, [0, None])
    beta1: float = _key(0.9, [0, "<1"])
    beta2: float = _key(0.999, [0, "<1"])
    eps: float = _key(1e-8, [">0", None])
    precision: str = _key("fp32", ["fp32", "bf16", "auto"])
    head_lr: float | None = _key(None, [">0", None])
    evaluations: int = _key(3, [1, None])
    eval_batch_size: int = _key(64, [1, None])
    eval_rows: int | None = _key(None, [1, None])
    log_every: int = _key(5, [1, None])
    base_dropout: float = _key(0.0, [0, "<1"])
    gradient_checkpointing: bool = _key(False)
    threads: int | None = _key(None, [1, None])


def total_steps(train: Train, rows: int) -> int:
    """Optimiser steps of a run on `rows` examples."""
    if train.steps is not None:
        return train.steps
    return max(1, math.ceil((train.epochs or 1.0) * rows / train.batch_size))


@dataclass
class Config:
    """The shape of conf/config.yaml. Each file of an open group (all but train) is its own schema."""

    variant: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    tracker: dict[str, Any] = field(default_factory=dict)
    train: Train = field(default_factory=Train)
    r: int = _key(8, [1, None])
    alpha: float = _key(16.0, [">0", None])
    targets: Any = None
    lr: float | None = _key(None, [">0", None])
    seed: int = _key(0, [0, 999_999_999])
    match: str | None = _key(None, ["parameters", "memory"])
    repeat: bool = _key(False)
    study: str = "default"
    workers: Any = "auto"
    pack: Any = "auto"
    fsdp: int = _key(1, [1, None])
    signatures: bool = _key(True)
    time_limit: float | None = _key(None, [">0", None])
    keep_going: bool = _key(False)
    checkpoint_seconds: float = _key(60.0, [0, None])
    checkpoint_steps: int | None = _key(None, [1, None])


@dataclass(frozen=True)
class Terms:
    """How a command treats its runs. No part of what a run is: other terms, the same results."""

    time_limit: float | None = None  # minutes for one run
    keep_going: bool = False
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int | None = None
    pack: int | str = "auto"  # the most runs that train together on one base; "off" or 1: each alone
    fsdp: int = 1  # processes that train one run on a base in shards; 1: the base is whole

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Terms":
        """The terms in a composed configuration."""
        return cls(**{f.name: config[f.name] for f in fields(cls) if f.name in config})


# What comes once runs have ended: the table of results and the report; the table alone, of a part of a
# command that makes its report when all parts have ended; nothing, of a round that others follow.
AtEnd = Literal["report", "table", "nothing"]
