"""What a run is, fully resolved, and the name that its content gives it.

A RunSpec is frozen and hashable. Two commands that ask for the same run make equal specs, and equal specs on
equal data have one run_id: that is how a repeated command finds what it has already done. Specs are made from
a composed configuration by `experiments.config.resolve`.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin

from omegaconf import OmegaConf

from experiments.config.settings import STORAGE_OPTIONS, Config
from experiments.config.settings import Train as Train
from experiments.files import digest, is_name
from experiments.frozen import FrozenDict, frozen
from experiments.record import cell_key, identity, model_identity
from variants._core import costs

Value = bool | int | float | str | None


@dataclass(frozen=True)
class RunSpec:
    """One run. `r`, `alpha` and `targets` are None where the method does not use them.

    `phase` is one of `record.PHASES`: a run that tunes is judged on validation and never tested. `tuned`
    names the keys of the record between whose values tuning chooses. `repeat` counts the runs before it
    that were the same one. `signatures` is whether the run leaves the small arrays that its paper's figures
    need. `matched` is the rank of the reference whose budget this run was given, where a sweep matches ranks.
    `halving` is the divisor by which tuning dropped points after short runs, where it did.
    `config_dirs` are the folders of configuration that the command added to its own (--config-dir).
    """

    study: str
    variant: str
    method: str
    r: int | None
    alpha: float | None
    targets: str | tuple[str, ...] | None
    axes: Mapping[str, str]
    options: Mapping[str, Value]
    model: str
    model_options: Mapping[str, Any]
    dataset: str
    dataset_options: Mapping[str, Any]
    lr: float
    train: Train
    seed: int
    tracker: Mapping[str, Any] = field(default_factory=lambda: FrozenDict({"name": "none"}))
    phase: str = "run"
    signatures: bool = True
    tuned: tuple[str, ...] = ()
    repeat: int = 0
    matched: int | None = None
    halving: int | None = None
    config_dirs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in _FROZEN:
            object.__setattr__(self, name, frozen(getattr(self, name)))

    @property
    def initial_rank(self) -> int | None:
        """The largest rank at any time of the run; above `r` where ranks are pruned."""
        delta = self.axes.get("delta") or "lora"
        return None if self.r is None else costs.initial_rank(delta, self.r, self.options)

    @property
    def targets_text(self) -> str:
        """A preset or pattern as it is, a list by commas; "-" where the method has none."""
        if self.targets is None:
            return "-"
        return self.targets if isinstance(self.targets, str) else ",".join(self.targets)

    def as_record(self) -> dict[str, Any]:
        """The spec as written to spec.json and record.json; what is None is absent."""
        return {key: _plain(value) for key, value in self._parts().items() if value is not None}

    def _parts(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in (*_AS_THEY_ARE, *_BESIDE)},
            "train": vars(self.train),
            "variant_axes": self.axes,
            "variant_options": self.options,
            "tuned": self.tuned or None,
            "repeat": self.repeat or None,
            "config_dirs": self.config_dirs or None,
        }

    def model_key(self) -> tuple[Any, ...]:
        """The same for runs on one model, wherever it lies."""
        return self.model, _model_identity(self.model_options)

    def data_key(self) -> tuple[Any, ...]:
        """The same for runs that read one dataset in one way: one task, one length of its texts."""
        return self.dataset, self.dataset_options

    def base_key(self) -> tuple[Any, ...]:
        """The same for runs that may share one loaded base: the frozen model as it is stored.

        A base is loaded dense where it stays so, blocks of it learn, or A and B start from it as it was; its
        head is the data's.
        """
        storage = self.axes.get("storage", "fp32")
        dense = storage == "fp32" or self.options.get("unfreeze_top")
        stored = None if dense else (storage, *(self.options.get(name) for name in STORAGE_OPTIONS))
        if stored and costs.needs_of_init(str(self.options.get("init", "kaiming"))) == "dense":
            stored = (*stored, "dense")
        return *self.model_key(), self.train.base_dropout, stored

    def pack_key(self) -> tuple[Any, ...] | None:
        """The same for runs that may train side by side in one pack; None for one that trains alone.

        Free are variant, rank, scale, targets, rates, schedule, dropout, seed and steps.
        """
        if self.method not in PACKABLE or self.options.get("unfreeze_top") or self.train.base_dropout:
            return None  # weights of the base learn, or its dropout draws from one stream
        train = (getattr(self.train, name) for name in PACK)
        return self.method, *self.base_key(), *self.data_key(), *train, self.options.get("paged")

    def cell_key(self, *without: str) -> str:
        """The same for runs that differ in nothing but the seed (`without`: further keys), see `record`."""
        return cell_key(self._parts(), *without)

    def cell(self) -> str:
        """What the seeds of this run have in common, for people: dora-r8-qv-scipy_topics."""
        rank = f"r{self.r}" if self.r is not None else None
        parts = (self.variant, rank, _short(self.targets), self.dataset)
        return "-".join(_slug(part) for part in parts if part)

    def hash(self, data_sha256: str) -> str:
        """SHA-256 of all that decides the result, the data included.

        Left out are study, tracker, signatures, matched, halving, config_dirs and train.threads, and where
        model and data lie. Data is known by the hash of its rows; a model of the hub by its name and commit
        and, if one is pinned, its sha256; a model in a folder by all bytes that it holds (`content`, see
        `resolve`).
        """
        parts = identity(self._parts())
        dataset = {key: value for key, value in self.dataset_options.items() if key != "path"}
        return digest({**parts, "dataset_options": dataset, "data_sha256": data_sha256})

    def run_id(self, data_sha256: str) -> str:
        """A readable prefix and eight digits of the hash; [a-z0-9-_], at most 64 characters."""
        tail = f"-s{self.seed}-{self.hash(data_sha256)[:8]}"
        return self.cell()[: 64 - len(tail)].rstrip("-_") + tail


_AS_THEY_ARE = (
    "study", "variant", "method", "r", "alpha", "targets", "model", "model_options", "dataset",
    "dataset_options", "lr", "seed", "tracker",
)  # fmt: skip
_BESIDE = ("phase", "signatures", "matched", "halving")
_FROZEN = (
    "axes", "options", "model_options", "dataset_options", "tracker", "targets", "tuned", "config_dirs",
)  # fmt: skip
# methods that leave the base as it is
PACKABLE = ("adapters", "probe", "zero", "pfeiffer", "prefix", "ptuning_v2", "prompt", "ia3")
# Of train: what the runs of a pack share.
PACK = ("batch_size", "micro_batch_size", "precision", "gradient_checkpointing", "threads", "eval_rows")
_WHERE_SET = (*_BESIDE, "tuned", "repeat", "config_dirs")


@cache
def _model_identity(options: FrozenDict) -> FrozenDict:
    return FrozenDict(model_identity(options))


def from_record(record: Mapping[str, Any]) -> RunSpec:
    """The spec that `as_record` wrote; ValueError for what it cannot have written."""
    if not isinstance(record, Mapping):
        raise ValueError("this is no spec of a run: not a mapping")
    if not is_name(record.get("study")):
        raise ValueError(f"study {record.get('study')!r} is no name of a folder")
    unset = {f.name: None for f in fields(Train) if type(None) in get_args(f.type)}
    try:
        made = RunSpec(
            **{name: record.get(name) for name in _AS_THEY_ARE},  # type: ignore[arg-type]
            **{name: record[name] for name in _WHERE_SET if name in record},
            train=Train(**{**unset, **record["train"]}),
            axes=record["variant_axes"],
            options=record["variant_options"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no spec of a run: {type(error).__name__} {error}") from None
    for part in (made, made.train):
        for f in fields(part):
            if not _is_a(getattr(part, f.name), f.type):
                raise ValueError(f"the spec's {f.name} is {getattr(part, f.name)!r}")
    return made


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON is of an annotated type."""
    if kind in (Any, Value) or (not isinstance(kind, type) and not get_args(kind)):
        return True
    origin = get_origin(kind) or kind
    if origin in (Union, UnionType):
        return any(_is_a(value, each) for each in get_args(kind))
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_is_a(v, get_args(kind)[1]) for v in value.values())
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_a(v, get_args(kind)[0]) for v in value)
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, origin) and (origin is bool or not isinstance(value, bool))


def register() -> None:
    """Tell Hydra the types of conf/config.yaml, before anything is composed."""
    from hydra.core.config_store import ConfigStore

    schema = OmegaConf.structured(Config)
    OmegaConf.set_readonly(schema.train, None)  # frozen means read-only there, but a command sets its keys
    ConfigStore.instance().store(name="schema", node=schema)


def _plain(value: Any) -> Any:
    """As JSON reads it back, without what is None."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items() if v is not None}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")


def _short(targets: str | tuple[str, ...] | None) -> str | None:
    """Targets as part of a name: a preset or a short list as it is, else the kind and a hash."""
    if targets is None:
        return None
    text = targets if isinstance(targets, str) else "-".join(targets)
    pattern = text.startswith("re:")
    if pattern or len(text) > 20:
        return ("re" if pattern else "list") + hashlib.sha256(text.encode()).hexdigest()[:6]
    return text
