"""Adapters in the format of PEFT: `adapter_config.json` beside `adapter_model.safetensors`. Never pickle.

What a run here and an adapter there call differently:

    here                               PEFT
    lora   A, B                        lora_A.weight, lora_B.weight
    dora   m                           lora_magnitude_vector
    adalora  Q, L, P                   ADALORA: lora_A, lora_E, lora_B; or LORA, L folded into B
    q, k, v blocks of a fused map      one LoRA of the summed rank, its B zero off the blocks
    the experts of a stack             target_parameters: A of one after another, columns of B rank by rank
    head                               a module in modules_to_save
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from variants._core.attach import Attached
from variants._core.delta import Held, PeftAdapter
from variants._core.storage import AdaptedExperts, AdaptedLinear, AdaptedStack
from variants._peft.config import CONFIG

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."


def write_peft(
    attached: Attached, k: int, folder: str | os.PathLike, *, form: str = "lora", replace: bool = False
) -> None:
    """Write run k's adapter and head as a folder that PEFT loads.

    Args:
        attached: the trained pack.
        k: which run of it.
        folder: where to; it appears whole or not at all. It must not exist, or be empty, unless `replace`.
        form: "lora" for what any tool understands, "adalora" for PEFT's own. As "lora", AdaLoRA becomes the
            ranks left, and every change of the form B diag(c) A two plain factors.
        replace: put it in place of what is there.
    """
    pieces = _pieces(attached, k, form, folded=True)
    if not pieces:
        raise ValueError(
            "this run has no low-rank adapter to export: it trains something else, or all its ranks are zero."
        )
    if any(t.plain for t in attached.trained):
        raise ValueError(
            "this run trained blocks of the model itself, which no adapter holds: merge it instead."
        )
    heads = head_tensors(attached, k)
    config = (_adalora_config if form == "adalora" else _lora_config)(attached, k, pieces)
    config |= _common(attached, k, pieces, heads)
    places = dict(zip(pieces, pieces, strict=True)) | _wrapped(attached, pieces)
    tensors = {f"{PREFIX}{places[n]}.{key}": t for n, p in pieces.items() for key, t in _keyed(p, form)}
    tensors |= {f"{PREFIX}{name}": tensor for name, tensor in heads.items()}
    _write(Path(folder), config, tensors, replace=replace)


def write_inserted(attached: Attached, k: int, folder: str | os.PathLike) -> None:
    """Write what run k put into the model, and its head, as a folder that PEFT loads.

    Raises:
        ValueError: PEFT has no such adapter, or cannot hold this one.
    """
    inserted = attached.inserted
    if inserted is None or inserted.to_peft is None:
        raise ValueError(f"PEFT has no {inserted.what if inserted else 'place for what this run trained'}.")
    config, tensors = inserted.to_peft(k)
    prefix = PREFIX if "target_modules" in config else "base_model."  # prompts wrap the model once
    heads = head_tensors(attached, k)
    about = _about(attached)
    if "target_modules" in config:
        about["modules_to_save"] = _tops(heads)
    tensors = tensors | {f"{prefix}{name}": tensor for name, tensor in heads.items()}
    _write(Path(folder), config | about, tensors, replace=False)


def peft_form(attached: Attached, k: int) -> str | None:
    """The form in which PEFT's format keeps all that run k trained; None if it keeps it in none.

    AdaLoRA's triplets are kept as they are where PEFT's own AdaLoRA can hold them: whole maps, one rank and
    one scale for all. Blocks of the model itself, as `unfreeze_top` trains, have no place in an adapter.
    """
    if any(t.plain for t in attached.trained):
        return None
    for form in ("adalora", "lora"):
        try:
            pieces = _pieces(attached, k, form)
        except NoForm:
            continue
        uniform = len({(piece.rank, piece.scale) for piece in pieces.values()}) == 1
        if pieces and (form == "lora" or uniform):
            return form
    return None


class NoForm(ValueError):
    """PEFT's format has no such form for what a run trained."""


def _pieces(attached: Attached, k: int, form: str, *, folded: bool = False) -> dict[str, PeftAdapter]:
    """The adapter of every map that has one; NoForm if one cannot be in this form, folded or not."""
    found = {name: _piece(layer, k, form, folded=folded) for name, layer in attached.layers.items()}
    return {name: piece for name, piece in found.items() if piece and (piece.rank or form != "lora")}


def _piece(layer: AdaptedLinear, k: int, form: str, *, folded: bool) -> PeftAdapter | None:
    held = layer.of_run(k)
    if isinstance(layer, AdaptedStack) and not folded:
        raise NoForm("experts are kept as plain tensors by name; an export makes them target_parameters.")
    pieces = []
    for h, i in held:
        piece = h.delta.to_peft(i, form)
        if piece is None and folded and form == "lora":
            piece = _folded(h, i)
        if piece is None:
            other = "export it merged or as a dense delta" if form == "lora" else "use form 'lora'"
            raise NoForm(f"PEFT's form {form!r} does not hold what {type(h.delta).__name__} trains; {other}.")
        pieces.append(piece)
    if isinstance(layer, AdaptedStack):
        return _stacked(pieces) if pieces else None
    blocks = [h.part.block for h, _ in held if h.part.block is not None]
    return _joined(blocks, pieces, layer) if blocks else next(iter(pieces), None)


def _folded(held: Held, i: int) -> PeftAdapter | None:
    """W' = W + B diag(c) A as a LoRA, whatever A, B and c are made of; None for another form."""
    if not held.delta.low_rank:
        return None
    with torch.no_grad():
        A, B, c, g = held.delta.factors(held.base).of_run(i)
        return None if g is not None else PeftAdapter({"A": (c * A)[0], "B": B[0].clone()}, 1.0)


def _stacked(pieces: list[PeftAdapter]) -> PeftAdapter:
    """The experts of a stack as one adapter of a parameter; where ranks differ, zeros fill them up."""
    if any(set(piece.tensors) != {"A", "B"} for piece in pieces):
        raise NoForm("PEFT adapts experts by A and B alone; export it merged or as a dense delta.")
    scale, rank = pieces[0].scale, max(piece.rank for piece in pieces)
    A = [F.pad(p.tensors["A"], (0, 0, 0, rank - p.rank)) for p in pieces]
    B = [F.pad(p.tensors["B"] * (p.scale / scale), (0, rank - p.rank)) for p in pieces]
    tensors = {"A": torch.cat(A), "B": torch.stack(B, dim=2).flatten(1)}
    return PeftAdapter(tensors, scale, len(pieces))


def _wrapped(attached: Attached, pieces: Collection[str]) -> dict[str, str]:
    """Where PEFT keeps the tensors of a stack: around its module, the first parameter innermost."""
    found: dict[str, str] = {}
    for place, module in attached.model.named_modules():
        if isinstance(module, AdaptedExperts):
            own = [f"{place}.{name}" for name in module.names if f"{place}.{name}" in pieces]
            found |= {name: place + ".base_layer" * i for i, name in enumerate(reversed(own))}
    return found


def _joined(blocks: list[slice], pieces: list[PeftAdapter], layer: AdaptedLinear) -> PeftAdapter:
    """Blocks of a fused map as one adapter of it."""
    if any("E" in piece.tensors for piece in pieces):
        raise NoForm(
            f"{layer.name} is adapted in blocks, which PEFT's AdaLoRA does not know; use form 'lora'."
        )
    scale = pieces[0].scale
    A = torch.cat([piece.tensors["A"] for piece in pieces])
    B = A.new_zeros(layer.base.d_out, len(A))
    first = 0
    for block, piece in zip(blocks, pieces, strict=True):
        B[block, first : first + piece.rank] = piece.tensors["B"] * (piece.scale / scale)
        first += piece.rank
    joined = PeftAdapter({"A": A, "B": B}, scale)
    if "m" in pieces[0].tensors:
        joined.tensors["m"] = layer.base.row_squares().sqrt()
        for block, piece in zip(blocks, pieces, strict=True):
            joined.tensors["m"][block] = piece.tensors["m"]
    return joined


def _keyed(piece: PeftAdapter, form: str) -> Iterable[tuple[str, Tensor]]:
    names = {"A": "lora_A", "B": "lora_B", "E": "lora_E"} if form == "adalora" else LORA_KEYS
    return ((names[key], t[:, None] if key == "E" else t) for key, t in piece.tensors.items())


LORA_KEYS = {"A": "lora_A.weight", "B": "lora_B.weight", "m": "lora_magnitude_vector"}


def head_tensors(attached: Attached, k: int) -> dict[str, Tensor]:
    """Run k's heads by name, as views."""
    return {
        f"{name}.{leaf}": parameter.detach()[k]
        for name, head in attached.heads.items()
        for leaf, parameter in head.named_parameters()
    }


def _tops(heads: Mapping[str, Tensor]) -> list[str] | None:
    return sorted({name.split(".")[0] for name in heads}) or None


def _common(
    attached: Attached, k: int, pieces: Mapping[str, PeftAdapter], heads: Mapping[str, Tensor]
) -> dict[str, Any]:
    return _about(attached) | {
        "target_modules": [name for name, piece in pieces.items() if not piece.experts],
        "target_parameters": [name for name, piece in pieces.items() if piece.experts] or None,
        "modules_to_save": _tops(heads),
        "fan_in_fan_out": any(attached.layers[name].origin is not torch.nn.Linear for name in pieces),
        "lora_dropout": attached.runs[k].dropout,
        "bias": "none",
    }


def _about(attached: Attached) -> dict[str, Any]:
    """What every adapter says of its model."""
    tasks = {"ForSequenceClassification": "SEQ_CLS", "ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM"}
    kind, config = type(attached.model).__name__, getattr(attached.model, "config", None)
    return {
        "base_model_name_or_path": getattr(config, "name_or_path", None) or None,
        "task_type": next((task for suffix, task in tasks.items() if kind.endswith(suffix)), None),
        "inference_mode": True,
    }


def _lora_config(attached: Attached, k: int, pieces: Mapping[str, PeftAdapter]) -> dict[str, Any]:
    stable = attached.runs[k].axis("scaling") == "alpha_over_sqrt_r"
    ranks = {name: piece.rank for name, piece in pieces.items()}
    alphas = {name: p.scale * (p.rank**0.5 if stable else p.rank) for name, p in pieces.items()}
    alphas = {
        name: round(alpha) if abs(alpha - round(alpha)) < 1e-9 else alpha for name, alpha in alphas.items()
    }
    r, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "r": r,
        "lora_alpha": alpha,
        "use_rslora": stable,
        "use_dora": any("m" in piece.tensors for piece in pieces.values()),
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != r},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
    }


def _adalora_config(attached: Attached, k: int, pieces: Mapping[str, PeftAdapter]) -> dict[str, Any]:
    ranks, scales = {p.rank for p in pieces.values()}, {p.scale for p in pieces.values()}
    if len(ranks) != 1 or len(scales) != 1:
        raise ValueError(
            "PEFT's AdaLoRA has one rank and one alpha for all layers, this run several; use form 'lora'."
        )
    rank, run = ranks.pop(), attached.runs[k]
    pattern = {f"{name}.lora_E": (p.tensors["E"] != 0).tolist() for name, p in pieces.items()}
    for name, piece in pieces.items():
        alive = torch.tensor(pattern[f"{name}.lora_E"], device=piece.tensors["A"].device)
        piece.tensors = {key: t[:, alive] if key == "B" else t[alive] for key, t in piece.tensors.items()}
    return {
        "peft_type": "ADALORA",
        "init_r": rank,
        "target_r": run.r,
        "lora_alpha": scales.pop() * (rank + 1e-5),  # PEFT divides by init_r + 1e-5
        "total_step": run.steps,
        "rank_pattern": pattern,
    }


def _write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, replace: bool) -> None:
    from safetensors.torch import save_file

    if folder.exists() and not replace and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"{folder} is there already and not empty: choose another folder, or remove it first."
        )
    part = folder.with_name(folder.name + ".partial")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        save_file(
            {key: t.contiguous().cpu() for key, t in tensors.items()},
            part / WEIGHTS,
            metadata={"format": "pt"},
        )
        (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
