"""QLoRA's questions: what do 4 bits cost, and what do they save? Dettmers et al. 2023, arXiv:2305.14314.

The error of each 4-bit format is measured on the dense weights that the base was quantised from, read from
the checkpoint one at a time: ||W - dequantised||^2 / ||W||^2. int4 is the symmetric integer grid -7..7 on the
same blocks of 64.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from experiments import models
from experiments.signatures import matrices
from experiments.spec import RunSpec
from variants import AdaptedLinear, Attached

BLOCK, OUTER = 64, 256
FORMATS = ("nf4", "fp4", "int4")
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
    names = matrices.spread(list(packed), MOST)
    dense = zip(names, models.weights(spec, names), strict=True)
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
        "storage/formats": np.array([f"{name}{extra}" for name in FORMATS for extra in ("", " double")]),
        "storage/names": np.array(names),
        "storage/error": np.array(errors).T,
    }


def _by_output(weight: Tensor, layer: AdaptedLinear) -> Float[Tensor, "d_out d_in"]:
    """The weight as blocks run along it, flattened."""
    weight = weight.float()
    return weight.T.contiguous() if layer.origin.__name__ == "Conv1D" else weight


def _errors(W: Float[Tensor, "d_out d_in"]) -> list[float]:
    return [
        relative_error(W, restored(W, name, double=double)) for name in FORMATS for double in (False, True)
    ]


def relative_error(W: Tensor, back: Tensor) -> float:
    """The mean squared error of restored weights over the mean square of the original ones."""
    return float((W - back).square().sum() / W.square().sum())


def restored(W: Float[Tensor, "d_out d_in"], name: str, *, double: bool) -> Float[Tensor, "d_out d_in"]:
    """W quantised to a 4-bit format and back, with or without double quantisation of the scales."""
    from bitsandbytes import functional

    flat = W.flatten()
    if name != "int4":
        even = torch.nn.functional.pad(flat, (0, len(flat) % 2))  # codes come in pairs
        packed, state = functional.quantize_4bit(
            even, blocksize=BLOCK, quant_type=name, compress_statistics=double
        )
        return functional.dequantize_4bit(packed, state).flatten()[: len(flat)].view_as(W)
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    absmax = blocks.abs().amax(dim=1)
    scale = _scales_in_8_bits(absmax) if double else absmax
    codes = torch.where(absmax[:, None] > 0, blocks / absmax[:, None] * 7, 0.0).round()
    return (codes / 7 * scale[:, None]).flatten()[: len(flat)].view_as(W)


def _scales_in_8_bits(absmax: Float[Tensor, " blocks"]) -> Float[Tensor, " blocks"]:
    """Scales as double quantisation restores them: 8 bits in blocks of 256 around their mean."""
    from bitsandbytes import functional

    mean = absmax.mean()
    codes, state = functional.quantize_blockwise(absmax - mean, blocksize=OUTER)
    return functional.dequantize_blockwise(codes, state) + mean
