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
from typing import TYPE_CHECKING, Any

from experiments.artifacts import Base, Source, load_base, put_back
from experiments.errors import UserError
from experiments.files import replacing_folder, write_json

if TYPE_CHECKING:
    from variants import Attached

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
    write = _writer(to)
    base = load_base(source)
    exact = {**source.storage_options, "compute": "fp32"}  # which storages without a type of their own ignore
    attached = put_back(base, [source], options=exact)
    _check_form(source, attached, to)
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


def _check_form(source: Source, attached: "Attached", to: str) -> None:
    """Refuse a form that cannot hold what a run trained, and name one that can."""
    adapters = source.spec is not None and source.spec.method == "adapters"
    inserted = attached.inserted
    own = inserted is not None and inserted.to_peft is not None
    reads = "`python -m experiments.predict` reads the run"
    if to == "peft" and source.adapter is None and not (adapters or own):
        trained = source.spec.variant if source.spec else "its method"
        what = (
            f"trained {inserted.what}"
            if inserted
            else "changed parameters of the model itself, its head alone, or nothing"
        )
        instead = reads if inserted else "Give --to merged or --to dense-delta"
        raise UserError(
            f"{source.name} cannot become a PEFT adapter: variant={trained} {what}, which that format does "
            f"not hold. {instead}"
        )
    if to != "peft" and inserted is not None and inserted.fold is None:
        raise UserError(
            f"{source.name} has no form {to}: {inserted.what} stay a part of every forward pass, and no "
            f"weight can hold them. {reads}"
        )


def _writer(to: str) -> Callable[..., dict[str, Any]]:
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
