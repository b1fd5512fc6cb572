"""Bases and encoded data for the runs of one process. The last of each is kept."""

from typing import Any, NamedTuple

from experiments import data, models
from experiments.data import Task
from experiments.models import Info
from experiments.spec import RunSpec
from experiments.training.loop import run_config
from variants import loads_stored


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

    def __call__(self, spec: RunSpec) -> Prepared:
        """The frozen base in the storage that the run asks for, its facts, and the encoded task."""
        run = run_config(spec, steps=1)
        streamed = run if loads_stored(run) else None
        key: tuple[Any, ...] = spec.data_key()
        if self._data[0] != key:
            self._data = self._task = (None, None)
            self._data = key, data.read(spec)
        raw = self._data[1]
        classes = len(raw.labels) if raw.kind == "classification" else None
        key = (*spec.base_key(), raw.kind, classes)
        if self._base[0] != key:
            self._base = self._task = (None, None)  # before the next one is loaded
            self._base = key, models.load(spec, kind=raw.kind, n_labels=classes, straight=streamed)
        model, tokenizer, info = self._base[1]
        key = (self._data[0], self._base[0])
        if self._task[0] != key:
            self._task = key, data.encode(raw, tokenizer, spec.dataset_options.get("max_length"))
        return Prepared(model, info, self._task[1])
