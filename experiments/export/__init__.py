"""What a run trained, in the formats of others, with the proof that it still says the same.

    peft          adapter_config.json and adapter_model.safetensors, as PEFT loads them: the run's own, or
                  a LoRA that says the same
    merged        a plain Hugging Face checkpoint with its tokenizer: no adapter, no added latency
    dense-delta   W' - W of every changed parameter, by the names of the base's parameters

Beside each stand export.json (what it is) and fidelity.json (how far it is from the run's own model, measured
on the files as written). Weights are safetensors, never pickles. A folder appears whole or not at all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.artifacts import Base, Source, load_base, put_back
from experiments.errors import UserError
from experiments.files import replacing_folder, write_json

FORMS = ("peft", "merged", "dense-delta")
DTYPES = ("fp32", "bf16", "fp16")
FOUR_BIT = ("nf4", "fp4")  # that bitsandbytes, and so transformers and PEFT, can hold
FIDELITY, ABOUT = "fidelity.json", "export.json"


@dataclass(frozen=True)
class Options:
    """How to export; None is the form's own choice."""

    form: str | None = None  # of peft: "lora" or "adalora"
    dtype: str | None = None  # of merged
    requantise: str | None = None  # of merged: one of FOUR_BIT
    replace: bool = False


def export(source: Source, to: str, out: Path, options: Options = Options()) -> dict[str, Any]:
    """Write one form of a source and measure it.

    Args:
        source: A finished run, or an adapter.
        to: One of FORMS.
        out: The folder to be. It must not exist, or be empty, unless `options.replace`.
        options: How.

    Returns:
        What fidelity.json holds.

    Raises:
        UserError: the source has no such form, the folder is taken, or the export does not say the same.
    """
    check_vacant(out, replace=options.replace)
    write = _writer(source, to)
    base = load_base(source)
    exact = {**source.storage_options, "compute": "fp32"}  # which storages without a type of their own ignore
    attached = put_back(base, [source], options=exact)
    from experiments.export import _fidelity

    inputs = _fidelity.inputs(source, base)
    reference = _fidelity.Reference(base, source, inputs, exact)
    reference.logits = reference.of(attached.model)
    with replacing_folder(out) as folder:
        about = write(base, source, attached, folder, options, reference)
        fidelity = reference.report()
        write_json(folder / FIDELITY, fidelity)
        write_json(folder / ABOUT, {"format": to, **_about(source, base), **about})
    return fidelity


def check_vacant(out: Path, *, replace: bool) -> None:
    """Refuse a folder that holds something, unless it is an earlier export and may be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    what = f"holds {', '.join(sorted(p.name for p in out.iterdir())[:4])}" if out.is_dir() else "is a file"
    if not replace:
        raise UserError(f"{out} is there already and {what}. Choose another folder, or give --replace")
    if not (out / FIDELITY).is_file():
        raise UserError(
            f"{out} {what}, but no {FIDELITY}, so no export wrote it, and --replace leaves it alone. Choose "
            "another folder, or remove it yourself"
        )


def _writer(source: Source, to: str) -> Callable[..., dict[str, Any]]:
    adapters = source.spec is not None and source.spec.method == "adapters"
    if to == "peft" and source.adapter is None and not adapters:
        trained = source.spec.variant if source.spec else "its method"
        raise UserError(
            f"{source.name} cannot become a PEFT adapter: variant={trained} changed parameters of the model "
            "itself, its head alone, or nothing, which that format does not hold. Give --to merged or "
            "--to dense-delta"
        )
    from experiments.export import _dense, _merged, _peft

    return {"peft": _peft.write, "merged": _merged.write, "dense-delta": _dense.write}[to]


def _about(source: Source, base: Base) -> dict[str, Any]:
    spec = source.spec
    facts = {name: getattr(spec, name) for name in ("variant", "r", "alpha", "targets")} if spec else {}
    return {
        "run": source.name,
        **facts,
        "labels": source.labels or None,
        "base": {
            "name": source.base_name,
            "revision": source.loading.model_options.get("revision"),
            "sha256": base.info.sha256,
            "storage": source.storage,
            **source.storage_options,
        },
    }
