"""Opening a finished run, its folder whole and its end a result; or an adapter of PEFT from anywhere."""

import json
from pathlib import Path
from typing import Any

from experiments import data
from experiments.artifacts._source import Source, named_base
from experiments.data._tasks import SETTINGS
from experiments.errors import UserError, did_you_mean
from experiments.models import content_of
from experiments.record import RunFolder, read, run_folders, verify
from experiments.spec import RunSpec, from_record
from experiments.tasks import kind_of

EXPORT = "export.json"  # what an export says about itself


def open_run(path: Path, *, model: str | None = None) -> Source:
    """A completed run by its folder. All of its files are compared with the checksums in its record.

    Args:
        path: The folder.
        model: Where its base is now, as a file of conf/model, a folder or a name of the hub; what is there
            must be what it was trained on. None: where it was.

    Raises:
        UserError: there is no run, it has not ended well, or a file is not what the run wrote.
    """
    path = path.resolve()
    folder = RunFolder(path)
    _check_place(folder)
    record = read(path)
    if record is not None and record.get("status") != "completed":
        raise UserError(
            f"{path.name} ended as {record.get('status')!r} and left nothing to use. Completed runs do"
        )
    problems = verify(path)
    again = folder.repeat
    if record is None or problems:
        raise UserError(f"{path} cannot be used: {'; '.join(problems)}. Make it again: {again}")
    try:
        spec, task = from_record(record["spec"]), record.get("task", {})
    except ValueError as error:
        raise UserError(f"{path} cannot be used: {error}. Make it again: {again}") from None
    in_peft = (folder.adapter / "adapter_config.json").is_file()
    by_name = folder.adapter / "trained.safetensors"
    return Source(
        name=path.name,
        path=path,
        loading=_at(model, spec, path.name) if model else spec,
        labels=_labels(record, spec),
        task=task.get("kind", ""),
        settings={key: value for key, value in task.items() if key in SETTINGS},
        spec=spec,
        adapter=folder.adapter if in_peft else None,
        trained=by_name if by_name.is_file() else None,
        storage=spec.axes.get("storage") or "fp32",
        storage_options={k: v for k, v in spec.options.items() if k in ("double_quant", "compute")},
        precision=spec.train.precision,
        max_length=spec.dataset_options.get("max_length"),
        base_sha256=record.get("model", {}).get("sha256"),
    )


def _at(model: str, spec: RunSpec, run: str) -> Any:
    """What loading reads of a spec, for its base at another place.

    A folder or file is compared at once with the content that the run was planned with, where that is known;
    the weights of any are compared once they are loaded.
    """
    moved = named_base(model)
    if spec.model_options.get("allow_pickle"):
        moved.model_options["allow_pickle"] = True
    planned, place = str(spec.model_options.get("content") or ""), Path(model).expanduser()
    if len(planned) == 64 and place.exists() and (found := content_of(place)) != planned:
        raise UserError(
            f"--model {model} is not the base of {run}: its files hash to {found[:12]}, those that the run "
            f"was trained on to {planned[:12]}. Give the folder (or file) that was "
            f"{spec.model_options.get('path') or spec.model} then, unchanged"
        )
    return moved


def is_beside_runs(path: Path) -> bool:
    """Whether this stands in a study's folder without being a run of it: its report, a file."""
    folder = RunFolder(path)
    if folder.record.exists() or folder.spec.exists() or not path.exists():
        return False
    return any(run_folders(path.absolute().parent)) and not any(run_folders(path))


def _check_place(folder: RunFolder) -> None:
    """Whether this is the folder of a run at all, and if not, what it may have been meant to be."""
    path = folder.path
    if folder.record.exists() or folder.spec.exists():
        return
    if not path.is_dir():
        known = [other.path.name for other in run_folders(path.parent)]
        raise UserError(
            f"there is no folder {path}.{did_you_mean(path.name, known)} Give the folder of a run"
        )
    runs = [other.path.name for other in run_folders(path)]
    if runs:
        more = f" and {len(runs) - 3} more" if len(runs) > 3 else ""
        raise UserError(
            f"{path} is a study. Give one of its runs: {', '.join(str(path / r) for r in runs[:3])}{more}"
        )
    held = ", ".join(sorted(p.name for p in path.iterdir())[:6]) or "nothing"
    raise UserError(
        f"{path} holds neither a run (record.json) nor an adapter of PEFT (adapter_config.json), but {held}. "
        "Give the folder of a run, e.g. runs/demo/<run_id>"
    )


def _labels(record: dict[str, Any], spec: RunSpec) -> tuple[str, ...]:
    """The names of the classes; a record without them is completed from the data that it was made of."""
    facts = record.get("data", {})
    if "labels" in facts:
        return tuple(facts["labels"])
    kind = kind_of(record["task"]["kind"]) if "task" in record else None
    if record.get("primary", {}).get("metric") == "loss" or (kind and kind.room not in ("classes", "sets")):
        return ()  # there are no classes
    raw = data.read(spec)
    if raw.sha256["train"] != facts.get("train_sha256"):
        raise UserError(
            f"{record['run_id']} does not name its classes, and the data that would is not what it was "
            f"trained on: {spec.dataset_options.get('path') or spec.dataset} has changed. Restore it"
        )
    return raw.labels


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
        labels=_labels_of_adapter(path, labels, adapter.heads)
        if adapter.config.get("task_type") != "CAUSAL_LM"
        else (),
        adapter=path,
        base_sha256=_exported(path, "base", "sha256"),
        notes=(f"{path.name} was made for {said} and is put on {model}, as you ask",) if other else (),
    )


def _labels_of_adapter(path: Path, given: tuple[str, ...], heads: Any) -> tuple[str, ...]:
    """One name per class of the head; without any head, as many as are given."""
    rows = [len(tensor) for name, tensor in heads.items() if name.endswith(".weight")]
    if not rows:
        raise UserError(
            f"{path} holds no head (modules_to_save), so its classes are not known. Expected the adapter of "
            "a classifier saved with its head, or one of task_type CAUSAL_LM"
        )
    classes, said = min(rows), given or tuple(_exported(path, "labels") or ())
    if said and len(said) != classes:
        raise UserError(
            f"{path} has a head for {classes} classes, but {len(said)} labels are given: {', '.join(said)}"
        )
    return said or tuple(f"LABEL_{number}" for number in range(classes))


def _exported(path: Path, *keys: str) -> Any:
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
