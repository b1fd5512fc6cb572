"""Opening an adapter of PEFT from anywhere: on which base it belongs, and what its head answers."""

import json
from pathlib import Path
from typing import Any

from experiments.artifacts._source import Source, named_base
from experiments.errors import UserError

EXPORT = "export.json"  # what an export says about itself


def open_adapter(path: Path, *, model: str | None = None, labels: tuple[str, ...] = ()) -> Source:
    """An adapter folder; its tensors are read and checked, a pickle is never opened.

    Args:
        path: The folder.
        model: The base: a file of conf/model, a folder, or a name of the hub. None: as the adapter says.
        labels: Names of the classes. Empty: as an export wrote them, else LABEL_0 and so on.

    Raises:
        UserError: what was expected of the folder and what was found.
    """
    from variants import AdapterError, read_peft

    path = path.resolve()
    try:
        adapter = read_peft(path)
    except AdapterError as error:
        raise UserError(str(error)) from error
    name = model or adapter.config.get("base_model_name_or_path")
    if not name:
        raise UserError(f"{path} does not say which model it is for. Give it: --model <folder or hub name>")
    said = adapter.config.get("base_model_name_or_path")
    loading = named_base(str(name), None if model else adapter.config.get("revision"))
    other = said and model not in (None, said) and loading.model_options.get("name") != said
    return Source(
        name=path.name,
        path=path,
        loading=loading,
        labels=_labels(path, labels, adapter.heads) if adapter.config.get("task_type") != "CAUSAL_LM" else (),
        adapter=path,
        base_sha256=_said(path, "base", "sha256"),
        notes=(f"{path.name} was made for {said} and is put on {model}, as you ask",) if other else (),
    )


def _labels(path: Path, given: tuple[str, ...], heads: Any) -> tuple[str, ...]:
    """One name per class of the head; without any head, as many as are given."""
    rows = [len(tensor) for name, tensor in heads.items() if name.endswith(".weight")]
    if not rows:
        raise UserError(
            f"{path} holds no head (modules_to_save), so its classes are not known. Expected the adapter of "
            "a classifier saved with its head, or one of task_type CAUSAL_LM"
        )
    classes, said = min(rows), given or tuple(_said(path, "labels") or ())
    if said and len(said) != classes:
        raise UserError(
            f"{path} has a head for {classes} classes, but {len(said)} labels are given: {', '.join(said)}"
        )
    return said or tuple(f"LABEL_{number}" for number in range(classes))


def _said(path: Path, *keys: str) -> Any:
    """What an export noted of itself; None for an adapter from elsewhere."""
    file = path / EXPORT
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        for key in keys:
            value = value.get(key)
        if not (value is None or isinstance(value, str) or all(isinstance(one, str) for one in value)):
            raise ValueError(f"its {keys[-1]} are no texts")
        return value
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error}. Remove it, and give the classes by --labels") from error
