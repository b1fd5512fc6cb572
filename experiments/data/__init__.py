"""Tasks: from dataset=<name> to tensors. One module per family of tasks, found because its file is here.

To add a dataset, write one file:

    conf/dataset/<name>.yaml     reader: hub, for a table whose form that module knows (see `hub`)

or two files:

    experiments/data/<name>.py   source(options) -> str     a cheap hash of what is read (files, versions)
                                 read(options) -> RawTask   the rows as text, checked, in their three splits
    conf/dataset/<name>.yaml     name: <name>, and every option with its default; max_length among them

Both functions get the options of the yaml as the user set them, and `name`. `read` is called once per
content: what it returns is cached under the hash that `source` gives. Its rows go through `Rows`, which
orders and hashes them, and `carve`, which splits by a hash of the text what comes in one piece. Mistakes are
raised as `experiments.errors.UserError`. The kind of a task is one of `experiments.tasks`, which says how its
rows become tensors. Modules whose names begin with "_" are parts, not datasets.

Options of any dataset: `limit`, at most so many examples of each split, `train_limit`, of training alone, and
those in `_tasks.SETTINGS`, which say how answers are made and scored; `metric` puts one metric first. Of
tables of the hub also `test`, the datasets to test on instead of a split of its own, and `also`, those to
measure on before and after.

`python -m experiments.data <name> [key=value ...]` shows a dataset: its sizes, classes, some examples and
its hash.
"""

import hashlib
import importlib
import json
import pkgutil
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from experiments import cache
from experiments.data._beside import BESIDE, named
from experiments.data._conversations import asked as as_prompt
from experiments.data._inputs import Inputs, form_of, read_inputs
from experiments.data._tasks import (
    SETTINGS,
    Conversation,
    Encoded,
    RawTask,
    Rows,
    Task,
    Turn,
    canonical,
    digest,
)
from experiments.errors import UserError, did_you_mean
from experiments.frozen import FrozenDict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Conversation",
    "Encoded",
    "Inputs",
    "RawTask",
    "Rows",
    "Task",
    "Turn",
    "as_prompt",
    "completions_spaced",
    "encode",
    "encode_prompts",
    "encode_texts",
    "fingerprint",
    "forget",
    "form_of",
    "names",
    "read",
    "read_inputs",
    "read_options",
]

_VERSION = "4"  # of what is cached; a change of how rows are read or tokenised needs a new one
_NOT_ROWS = ("also", "max_length", "limit", "train_limit", "metric", *SETTINGS)
DEFAULT_LENGTH = 128  # tokens
_KEEP = 4  # encoded tasks held in memory
_encoded: OrderedDict[tuple[Any, ...], Task] = OrderedDict()


class Spec(Protocol):
    """What of a RunSpec is read here."""

    @property
    def dataset(self) -> str: ...
    @property
    def dataset_options(self) -> Mapping[str, Any]: ...


def names() -> list[str]:
    """Every dataset there is, by the modules of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def read(spec: Spec) -> RawTask:
    """The rows that a run uses, as text; UserError if they cannot be used. Read once per process."""
    return read_options(spec.dataset, spec.dataset_options)


def read_options(name: str, options: Mapping[str, Any]) -> RawTask:
    """As `read`, for a dataset by its name and options."""
    raw = _read(name, _frozen(options))
    if limit := options.get("limit"):
        splits = {split: rows.first(int(limit)) for split, rows in raw.splits.items()}
        raw = replace(raw, splits=splits, notes=(*raw.notes, f"dataset.limit={limit} examples of each split"))
    if limit := options.get("train_limit"):
        splits = {**raw.splits, "train": raw.splits["train"].first(int(limit))}
        note = f"dataset.train_limit={limit} examples to train on"
        raw = replace(raw, splits=splits, notes=(*raw.notes, note))
    return replace(raw, settings=_settings(raw.settings, options))


def _settings(own: Mapping[str, Any], options: Mapping[str, Any]) -> FrozenDict:
    """How a task is scored: what its reader says, the options over it, the metric that is to be first."""
    chosen = {**own, **{key: options[key] for key in SETTINGS if options.get(key) is not None}}
    names = chosen.get("metrics") or ()
    names = (names,) if isinstance(names, str) else tuple(names)
    if first := options.get("metric"):
        names = (str(first), *(name for name in names if name != first))
    return FrozenDict({**chosen, "metrics": names or None})


def fingerprint(spec: Spec, *, as_read: bool = False) -> str:
    """The SHA-256 of the rows that a run uses, of which `limit` may leave some out.

    Cheap: rows that were read once before are not read again, unless `as_read` asks for those that are held
    in memory.
    """
    hashed = _fingerprint_as_read if as_read else _fingerprint
    own = hashed(spec.dataset, _frozen(spec.dataset_options))
    others = [
        (role, name, hashed(name, _frozen(options)), options.get("max_length"))
        for role in BESIDE
        for name, options in named(spec.dataset_options.get(role), role)
    ]
    return digest(canonical([own, others])) if others else own


def beside(spec: Spec, role: str) -> dict[str, tuple[RawTask, int | None]]:
    """The datasets that a run is measured on beside its own, with their max_length; see `_beside`."""
    return {
        name: (read_options(name, options), options.get("max_length"))
        for name, options in named(spec.dataset_options.get(role), role)
    }


def encode(
    raw: RawTask,
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int | None,
    decoder_start: int | None = None,
) -> Task:
    """The task as tensors, tokenised once per content and then recalled.

    Args:
        raw: What `read` gave.
        tokenizer: Its `model_max_length` is taken as the model's own limit.
        max_length: The longest text in tokens, 128 if None. The tensors are as long as that, or as the data's
            longest text.
        decoder_start: The token that an encoder-decoder begins to write with; None for other models.
    """
    from experiments.data import _encode

    length = max_length or DEFAULT_LENGTH
    entry = _encode.identity(raw, tokenizer, length, _VERSION, decoder_start)
    key = (entry, length, raw.notes, raw.settings)
    if key not in _encoded:
        _encoded[key] = _encode.encode(raw, tokenizer, length, key=entry, decoder_start=decoder_start)
        if len(_encoded) > _KEEP:
            _encoded.popitem(last=False)
    _encoded.move_to_end(key)
    return _encoded[key]


def forget() -> None:
    """Let go of all that is held in memory; what comes next is recalled from the cache."""
    _read.cache_clear()
    _fingerprint.cache_clear()
    _encoded.clear()


def encode_texts(
    texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", max_length: int | None
) -> Encoded:
    """Texts without classes as tensors, stripped and cut as those of a task and as long as their longest."""
    from experiments.data import _encode

    stripped = tuple(text.strip() for text in texts)
    rows = Rows(tuple(str(i) for i in range(len(texts))), stripped, labels=(0,) * len(texts))
    return _encode.encode_rows(rows, tokenizer, max_length or DEFAULT_LENGTH)


def encode_prompts(
    conversations: Sequence[Conversation], tokenizer: "PreTrainedTokenizerBase", *, spaced: bool = False
) -> list[list[int]]:
    """Token ids of prompts, each ending where its completion would begin.

    Args:
        conversations: All turns but the one to be written; [("prompt", text)] is plain text.
        tokenizer: The model's.
        spaced: Whether plain completions begin with white space, as `completions_spaced` tells: then no line
            break is put before them.
    """
    from experiments.data._chat import render

    blank = ("completion", " " if spaced else "")
    open_ended = [
        (*turns, blank if turns[-1][0] == "prompt" else ("assistant", "")) for turns in conversations
    ]
    return [prompt for prompt, _ in render(open_ended, tokenizer)]


def completions_spaced(spec: Spec) -> bool:
    """Whether most completions that a run learned begin with white space; False if its data is gone."""
    try:
        rows = read(spec).splits["train"]
    except UserError:
        return False
    begun = [turns[-1][1][:1].isspace() for turns in rows.turns if turns[0][0] == "prompt"]
    return 2 * sum(begun) > len(begun)


def _with_name(name: str, options: str) -> dict[str, Any]:
    """The options for a module that reads several datasets, the name among them."""
    return {**json.loads(options), "name": name}


def _module(name: str, options: str = "{}") -> ModuleType:
    name = json.loads(options).get("reader") or name
    if name not in names():
        raise UserError(
            f"there is no dataset {name!r}.{did_you_mean(name, names())} Known: {', '.join(names())}. "
            f"To add one, write experiments/data/{name}.py and conf/dataset/{name}.yaml"
        )
    return importlib.import_module(f"experiments.data.{name}")


def _frozen(options: Mapping[str, Any]) -> str:
    """Options as a text that can be a key: those that decide the rows. None is the same as absent."""
    reading = [key for key in sorted(options) if key not in _NOT_ROWS and options[key] is not None]
    return canonical({key: options[key] for key in reading})


@lru_cache(maxsize=8)
def _read(name: str, options: str) -> RawTask:
    key = _key(name, options)
    stored = cache.recall_json("raw", key)
    if stored is not None:
        return RawTask.from_plain(stored)
    raw = _module(name, options).read(_with_name(name, options))
    cache.store_json("raw", key, raw.as_plain(), head={"fingerprint": raw.fingerprint})
    problem = cache.problem()
    return replace(raw, notes=(*raw.notes, problem)) if problem else raw


@lru_cache(maxsize=64)
def _fingerprint(name: str, options: str) -> str:
    head = cache.recall_head("raw", _key(name, options))
    return head["fingerprint"] if head and "fingerprint" in head else _read(name, options).fingerprint


def _fingerprint_as_read(name: str, options: str) -> str:
    return _read(name, options).fingerprint


def _key(name: str, options: str) -> str:
    """The name of the cache entry: where the files lie is no part of it, what they hold is."""
    chosen = json.loads(options)
    source = _module(name, options).source(_with_name(name, options))
    chosen.pop("path", None)
    return hashlib.sha256(canonical([_VERSION, name, chosen, source]).encode()).hexdigest()[:32]
