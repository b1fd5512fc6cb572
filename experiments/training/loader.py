"""Bases and encoded data for the runs of one process. The last of each is kept."""

import hashlib
import json
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from experiments import cache, data, models
from experiments.data import Task
from experiments.errors import UserError
from experiments.frozen import FrozenDict
from experiments.models import Info
from experiments.spec import RunSpec
from experiments.tasks import kind_of
from experiments.training.loop import run_config
from variants import keep_decompositions, loads_stored


class Prepared(NamedTuple):
    """What a run starts from."""

    model: Any  # the frozen base, shared and not to be changed: train a `models.clone`
    info: Info
    task: Task


class Loader:
    """Loads what runs start from; what the run before it used is used again where the two agree."""

    def __init__(self) -> None:
        self._data: tuple[Any, Any] = (None, None)  # the key, and what it stands for
        self._base: tuple[Any, Any] = (None, None)
        self._task: tuple[Any, Any] = (None, None)
        keep_decompositions(partial(cache.recall_tensors, "svd"), partial(cache.store_tensors, "svd"))

    def __call__(self, spec: RunSpec) -> Prepared:
        """The frozen base in the storage that the run asks for, its facts, and the encoded task."""
        run = run_config(spec, steps=1)
        streamed = run if loads_stored(run) else None
        key: tuple[Any, ...] = spec.data_key()
        if self._data[0] != key:
            self._data = self._task = (None, None)
            self._data = key, data.read(spec)
        raw = self._data[1]
        kind = kind_of(raw.kind)
        outputs = kind.outputs(raw) or None
        labels = raw.labels if kind.head == "classification" else ()
        key = (*spec.base_key(), kind.head, outputs, labels)
        if self._base[0] != key:
            self._base = self._task = (None, None)  # before the next one is loaded
            self._base = (
                key,
                models.load(spec, kind=kind.head, n_labels=outputs, labels=labels, streamed=streamed),
            )
        model, tokenizer, info = self._base[1]
        key = (self._data[0], self._base[0])
        if self._task[0] != key:
            config, length = model.config, spec.dataset_options.get("max_length")
            start = config.decoder_start_token_id if config.is_encoder_decoder else None
            task = data.encode(raw, tokenizer, length, start)
            self._task = key, _with_others(task, spec, tokenizer, start)
        return Prepared(model, info, self._task[1])


def _with_others(task: Task, spec: RunSpec, tokenizer: Any, start: int | None) -> Task:
    """The task with the others that the run is measured on; UserError if its model cannot answer them."""
    others: dict[str, dict[str, Task]] = {}
    for role in data.BESIDE:
        others[role] = {}
        for name, (raw, length) in data.beside(spec, role).items():
            if role == "test" and raw.kind == task.kind:  # tested by the task's metrics, not by its own
                metrics = tuple(dict.fromkeys((task.metric, *task.metrics)))
                raw = replace(raw, settings=FrozenDict({**raw.settings, "metrics": metrics}))
            others[role][name] = data.encode(raw, tokenizer, length, start)
        for name, other in others[role].items():
            fits = kind_of(other.kind).head == kind_of(task.kind).head
            if not fits or (kind_of(task.kind).head == "classification" and other.labels != task.labels):
                raise UserError(
                    f"dataset.{role}={name} is a task of {other.kind}, which a model for {task.name} "
                    f"({task.kind}) cannot answer with the head that it has"
                )
    if not any(others.values()):
        return task
    tests = others["test"]
    sha256, rows = dict(task.sha256), dict(task.rows)
    if tests:
        hashes = [(name, test.sha256["test"]) for name, test in sorted(tests.items())]
        sha256["test"] = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
        rows["test"] = sum(test.rows["test"] for test in tests.values())
    return replace(task, tests=tests, also=others["also"], sha256=sha256, rows=rows)
