"""The head of a base that classifies already, and the classes of the task at hand.

A checkpoint's head answers by class number. Which class that is its config says by name; the task numbers its
own classes by its own order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn


def align_head(
    model: Any, own: Mapping[str, Any], labels: Sequence[str], *, fresh: set[str], resized: set[str]
) -> list[str]:
    """Put the rows of a checkpoint's head in the order of the task's classes, or have it drawn anew.

    Args:
        model: A classifier of `len(labels)` classes, as loaded; rows of its last map are moved in place.
        own: The config.json of the checkpoint, whose id2label names the classes of its head.
        labels: The task's classes by number.
        fresh: Parameters that the checkpoint lacks. Those of the last map are added if the classes of the
            checkpoint cannot be told to be the task's.
        resized: Those of them that the checkpoint has in another size.

    Returns:
        Notes: what became of the head, if the checkpoint has one.
    """
    name, last = _last(model, len(labels))
    if last is None or (f"{name}.weight" in fresh and f"{name}.weight" not in resized):
        return []
    known = _names(own.get("id2label"), len(labels))
    said = f" ({', '.join(known[:6])}{', ...' if len(known) > 6 else ''})"
    if known[0] == "0":
        said = " (which its config.json does not name)"
    order = _order(known, labels)
    if order is None or f"{name}.weight" in fresh:
        fresh |= {f"{name}.{leaf}" for leaf, _ in last.named_parameters(recurse=False)}
        return [f"the base has a head for other classes{said}: the classification layer starts at random"]
    if order == list(range(len(labels))):
        return ["the head starts as the base's own, which knows these classes"]
    with torch.no_grad():
        for parameter in last.parameters(recurse=False):
            parameter.copy_(parameter[order].clone())
    return [f"the head starts as the base's own, its classes{said} put in the order of the task's by name"]


def _last(model: nn.Module, classes: int) -> tuple[str, nn.Linear | None]:
    """The map to the classes: the last one outside the backbone that gives a number for each."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    heads = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == classes and not name.startswith(prefix)
    ]
    return heads[-1] if heads else ("", None)


def _names(id2label: object, classes: int) -> list[str]:
    """The names of a head's classes by number; LABEL_0 and so on, which nobody chose, are the numbers."""
    if not isinstance(id2label, Mapping):
        return [str(number) for number in range(classes)]
    names = [str(name) for _, name in sorted(id2label.items(), key=lambda item: int(item[0]))]
    generic = [f"LABEL_{number}" for number in range(len(names))]
    return [str(number) for number in range(len(names))] if names == generic else names


def _order(known: Sequence[str], labels: Sequence[str]) -> list[int] | None:
    """For each of `labels` its place among `known`; None unless they are the same, capitals aside."""
    for plain in (str.strip, lambda name: name.strip().casefold()):
        places = {plain(name): number for number, name in enumerate(known)}
        wanted = [plain(label) for label in labels]
        if len(places) == len(known) == len(labels) and set(wanted) == set(places):
            return [places[name] for name in wanted]
    return None
