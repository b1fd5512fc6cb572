"""--to peft: an adapter that PEFT loads."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from experiments.artifacts import Base, Source, dense_base
from experiments.errors import UserError
from experiments.export import FOUR_BIT
from experiments.export._fidelity import Reference, installed
from variants import Attached, merge, write_inserted, write_peft

if TYPE_CHECKING:
    from experiments.export import Options

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def write(
    base: Base, source: Source, attached: Attached, folder: Path, options: "Options", reference: Reference
) -> dict[str, Any]:
    """Write the adapter and compare PEFT's reading of it, and the merged model, with the run's own."""
    if attached.inserted is not None:
        return _write_inserted(base, source, attached, folder, options, reference)
    form = options.form or "lora"
    kind = _read(source.adapter)["peft_type"] if source.adapter else "not in that format"
    if source.adapter and kind == {"lora": "LORA", "adalora": "ADALORA"}[form]:
        for name in (CONFIG, WEIGHTS):  # as the run wrote it, to the byte
            shutil.copyfile(source.adapter / name, folder / name)
    elif form == "adalora":
        raise UserError(
            f"{source.name} has no triplets of AdaLoRA to export: its adapter is {kind} "
            "(another variant, or ranks or blocks that PEFT's AdaLoRA cannot hold). Leave out --form"
        )
    else:
        _moved(source, folder, lambda inner: write_peft(attached, 0, inner, form="lora"))  # the ranks left
    _name_base(source, folder)
    _compare(base, source, folder, reference)
    reference.compare("merged, in float32", merge(attached, 0, dtype=torch.float32))
    return {"form": form}


def _write_inserted(
    base: Base, source: Source, attached: Attached, folder: Path, options: "Options", reference: Reference
) -> dict[str, Any]:
    """Write what is no change of weights: a prompt, a prefix, the vectors of (IA)^3."""
    if options.form is not None:
        raise UserError(f"--form {options.form} is of low-rank adapters, which {source.name} has none of")
    _moved(source, folder, lambda inner: write_inserted(attached, 0, inner))
    _name_base(source, folder)
    _compare(base, source, folder, reference)
    return {"form": _read(folder)["peft_type"].lower()}


def _moved(source: Source, folder: Path, write: Callable[[Path], None]) -> None:
    """Write an adapter into a folder that is there already, so by way of one inside it."""
    inner = folder / "adapter"
    try:
        write(inner)
    except ValueError as error:
        raise UserError(f"{source.name} cannot become a PEFT adapter: {error}") from error
    for file in inner.iterdir():
        file.rename(folder / file.name)
    inner.rmdir()


def _name_base(source: Source, folder: Path) -> None:
    """Name the base as others find it, not by where it lies on this machine."""
    config = _read(folder) | {
        "base_model_name_or_path": source.base_name,
        "revision": source.loading.model_options.get("revision"),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _read(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return config


def _compare(base: Base, source: Source, folder: Path, reference: Reference) -> None:
    peft = installed("peft")
    if peft is None:
        reference.skip("PEFT with this adapter", "peft is not installed here (pip install peft)")
        return
    stored = dense_base(base, source, options=reference.storage_options)
    model = peft.PeftModel.from_pretrained(stored, folder)
    kept = "" if source.storage == "fp32" else f", on the base as kept in {source.storage}"
    reference.compare(f"PEFT {peft.__version__} with this adapter{kept}", model)
    if source.storage != "fp32":
        model = peft.PeftModel.from_pretrained(dense_base(base, _full(source), options={}), folder)
        reference.compare("PEFT with this adapter, on the base in full precision", model, exact=False)
    if source.storage not in ("fp32", "bf16", *FOUR_BIT):
        reference.skip(
            f"PEFT with this adapter, on the base loaded in {source.storage} by bitsandbytes",
            f"it has {' and '.join(FOUR_BIT)} only; --to merged keeps the weights as they were here",
        )


def _full(source: Source) -> Source:
    return replace(source, storage="fp32", storage_options={})
