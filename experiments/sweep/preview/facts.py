"""What is known of a sweep's models and data before it runs, each looked up once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from experiments import data
from experiments.models import dimensions
from experiments.sizing.counts import Count, count
from experiments.sizing.match import nearest_rank
from experiments.sizing.skeleton import Skeleton, skeleton
from experiments.spec import RunSpec
from experiments.sweep.preview.past import Rows
from experiments.tasks import kind_of

Made = TypeVar("Made")


@dataclass(frozen=True)
class Task:
    """The sizes of a dataset."""

    kind: str
    classes: int  # outputs of the head; 0 for language models
    train: int  # rows
    validation: int
    test: int
    rows: Rows = frozenset()  # the hash of each split


class Facts:
    """Sizes of models, data and adapters, by spec."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def skeleton(self, spec: RunSpec) -> Skeleton | None:
        """Of the model; None if it is not on this machine."""
        return self._once(("skeleton", spec.model_key()), lambda: skeleton(spec))

    def task(self, spec: RunSpec) -> Task:
        """Of the data; UserError if it cannot be read."""
        return self._once(("task", spec.data_key()), lambda: _task(spec))

    def length(self, spec: RunSpec) -> int:
        """Tokens that a text is padded to, at most."""
        limits = self._once(("limits", spec.model_key()), lambda: dimensions(spec))
        requested = int(spec.dataset_options.get("max_length") or 128)
        return min(requested, (limits or {}).get("max_length") or requested)

    def count(self, spec: RunSpec) -> Count | None:
        """What a run trains; None if that cannot be known before it runs."""
        return self.count_on(spec, spec)

    def count_on(self, spec: RunSpec, place: RunSpec) -> Count | None:
        """What a run would train on the model and data of another."""
        found, classes = self.skeleton(place), self.task(place).classes
        key = ("count", place.model_key(), classes, spec.method, *_adapter(spec))
        return None if found is None else self._once(key, lambda: count(spec, found, classes))

    def rank_for(self, spec: RunSpec, other: RunSpec) -> int | None:
        """The rank at which a run trains as many adapter parameters as another; None if none comes near."""
        found, budget = self.skeleton(spec), self.count(other)
        if found is None or budget is None or self.count(spec) is None:
            return None
        rank, limit = nearest_rank(spec, budget.adapter, found)
        return rank if 1 <= rank <= limit else None

    def _once(self, key: tuple[Any, ...], make: Callable[[], Made]) -> Made:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def _adapter(spec: RunSpec) -> tuple[Any, ...]:
    return spec.r, spec.targets, spec.axes, spec.options


def _task(spec: RunSpec) -> Task:
    raw = data.read(spec)
    rows = {split: len(part) for split, part in raw.splits.items()}
    return Task(
        raw.kind,
        kind_of(raw.kind).outputs(raw),
        rows.get("train", 0),
        rows.get("validation", 0),
        rows.get("test", 0),
        frozenset((f"{split}_sha256", value) for split, value in raw.sha256.items()),
    )
