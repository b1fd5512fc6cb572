"""QLoRA's questions: what do 4 bits cost, and what do they save? Dettmers et al. 2023, arXiv:2305.14314.

The error of each 4-bit storage, whichever the run used, is measured on the dense weights that the base was
quantised from, read from the checkpoint one at a time: ||W - dequantised||^2 / ||W||^2.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from experiments import models
from experiments.spec import RunSpec
from experiments.training.diagnostics import matrices
from variants import AdaptedLinear, Attached, Base, get, names, reads

MOST = 6  # matrices of a run


def arrays(attached: Attached, spec: RunSpec) -> dict[str, Any]:
    """The arrays `storage/*`; none where the base is kept dense."""
    packed = {
        name: module
        for name, module in attached.model.named_modules()
        if isinstance(module, AdaptedLinear) and hasattr(module.base, "packed")
    }
    if not packed:
        return {}
    chosen = matrices.spread(list(packed), MOST)
    dense = zip(chosen, models.weights(spec, chosen), strict=True)
    errors = [_errors(_by_output(weight, packed[name])) for name, weight in dense]
    bases = [layer.base for layer in packed.values()]
    weights = sum(base.d_in * base.d_out for base in bases)
    codes = sum(base.packed.nbytes for base in bases)
    stored = sum(base.nbytes for base in bases)
    return {
        "storage/weights": np.array(weights),
        "storage/codes": np.array(codes),
        "storage/scales": np.array(stored - codes),
        "storage/rest": np.array(attached.base_bytes() - stored),
        "storage/formats": np.array([f"{name}{extra}" for name in formats() for extra in ("", " double")]),
        "storage/names": np.array(chosen),
        "storage/error": np.array(errors).T,
    }


def _by_output(weight: Tensor, layer: AdaptedLinear) -> Float[Tensor, "d_out d_in"]:
    """The weight as blocks run along it, flattened."""
    weight = weight.float()
    return weight.T.contiguous() if layer.origin.__name__ == "Conv1D" else weight


def formats() -> list[str]:
    """The 4-bit storages: those whose scales may be quantised in turn."""
    return [name for name in names("storage") if "double_quant" in reads("storage", name)]


def _errors(W: Float[Tensor, "d_out d_in"]) -> list[float]:
    return [
        relative_error(W, restored(W, name, double=double)) for name in formats() for double in (False, True)
    ]


def relative_error(W: Tensor, back: Tensor) -> float:
    """The mean squared error of restored weights over the mean square of the original ones."""
    return float((W - back).square().sum() / W.square().sum())


def restored(W: Float[Tensor, "d_out d_in"], name: str, *, double: bool) -> Float[Tensor, "d_out d_in"]:
    """W in a 4-bit storage and back, with or without double quantisation of the scales."""
    base: Base = get("storage", name)(W, transposed=False, options={"double_quant": double})
    return base.weight(W.dtype)
