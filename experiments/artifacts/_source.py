"""What is known of a run or an adapter before any model is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from experiments.config.groups import CONF, Conf
from experiments.errors import UserError
from experiments.tasks import kind_of

if TYPE_CHECKING:
    from experiments.spec import RunSpec


_CONF = Conf(CONF)


@dataclass(frozen=True)
class Source:
    """One set of trained parameters, and which base it belongs on."""

    name: str
    path: Path
    loading: Any  # what `models.load` reads of a spec
    labels: tuple[str, ...]  # by class number; empty for text generation
    task: str = ""  # the kind of task, of `experiments.tasks`; "": told by whether there are labels
    settings: Mapping[str, Any] = field(default_factory=dict)  # how its answers are made
    spec: "RunSpec | None" = None  # None for an adapter that no run here made
    adapter: Path | None = None  # the folder in PEFT's format; None where PEFT has no format for it
    trained: Path | None = None  # the file of tensors by name; None if there is none
    storage: str = "fp32"  # of the base
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "fp32"  # of the forward pass
    max_length: int | None = None  # of a text in tokens, as the dataset's option
    base_sha256: str | None = None  # of the weights that it was trained on
    notes: tuple[str, ...] = ()  # what to tell people about it

    @property
    def dataset_options(self) -> Mapping[str, Any]:
        """How its data was read; nothing is known of an adapter from elsewhere."""
        return self.spec.dataset_options if self.spec else {}

    @property
    def kind(self) -> str:
        """The class of model that the task needs: "classification" or "causal"."""
        if self.task:
            return kind_of(self.task).head
        return "classification" if self.labels else "causal"

    @property
    def outputs(self) -> int | None:
        """How many numbers the head gives; None for language models."""
        return len(self.labels) or (1 if self.kind == "classification" else None)

    @property
    def trained_blocks(self) -> int:
        """How many of the last blocks learned as a whole, and are not in the storage."""
        return int((self.spec.options.get("unfreeze_top") if self.spec else None) or 0)

    @property
    def base_name(self) -> str:
        """The base in the words that others know it by: the hub's name, else the folder."""
        options = self.loading.model_options
        return str(options.get("name") or options.get("path") or self.loading.model)


def named_base(name: str, revision: str | None = None) -> Any:
    """What loading reads of a spec, for a model by any of its names."""
    presets = {choice: _CONF.read("model", choice) for choice in _CONF.choices("model")}
    known = [c for c, options in presets.items() if c != "hf" and name in (c, options.get("name"))]
    if known:
        choice, options = known[0], {k: v for k, v in presets[known[0]].items() if k != "ranges"}
    elif name.startswith(("/", ".", "~")) or Path(name).is_file():
        choice, options = "hf", {"path": name}
    else:
        choice, options = "hf", {"name": name, "revision": revision}
    return SimpleNamespace(model=choice, model_options=options, train=SimpleNamespace(base_dropout=0.0))


def check_one_base(sources: Sequence[Source]) -> None:
    """Refuse sources that do not stand on one base with one set of classes."""
    first = sources[0]
    facts = {
        "have different bases": lambda source: source.base_name,
        "are of different kinds": lambda source: source.task or source.kind,
        "know different classes": lambda source: ", ".join(source.labels),
    }
    for other in sources[1:]:
        for differ, fact in facts.items():
            if fact(first) != fact(other):
                raise UserError(
                    f"{first.name} and {other.name} {differ} ({fact(first)[:60]}; {fact(other)[:60]}), so "
                    "that one model cannot answer for both. Give a command for each"
                )
