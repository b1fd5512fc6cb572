"""QLoRA: adapters on a base kept in 4 bits. Dettmers et al. 2023, arXiv:2305.14314.

    Y = X doubleDequant(c1, c2, W_nf4)^T + s X A^T B^T                   (eq. 5)

NormalFloat-4: blocks of 64 weights, each weight the nearest of 16 codes times the largest magnitude of its
block. Double quantisation keeps those magnitudes in 8 bits, in blocks of 256 around their mean: 4 + 8/64 +
32/(64 * 256) = 4.127 bits per weight, 4.5 without. The code tables are constants and not counted; in a small
layer the last, partly filled block costs more.

A storage, not a delta: every delta works on it. W is dequantised for the forward product and again for the
backward one, and its gradient is never formed. `compute` is the type of both products; norms of rows are
taken from the same dequantised weights.

A model is loaded straight into this storage, map by map. The embedding, norms and head stay as they are. The
option `paged` asks the optimiser to keep its moments in paged memory.

Deviations: adapters and norms are kept in float32 and follow autocast, where the authors cast adapters to
bfloat16. Paged memory is there on a GPU only, and the record says whether it was used.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from variants._base import Base
from variants._fourbit import FourBitBase
from variants._registry import register

defaults = {"double_quant": True, "compute": None}


@register("storage", "nf4", reads=tuple(defaults))
def nf4(weight: Tensor, *, transposed: bool, options: Mapping[str, Any]) -> Base:
    """4-bit NormalFloat, with the run's options `double_quant` and `compute`."""
    return _stored(weight, "nf4", transposed=transposed, options=options)


@register("storage", "fp4", reads=tuple(defaults))
def fp4(weight: Tensor, *, transposed: bool, options: Mapping[str, Any]) -> Base:
    """4-bit floating point (E2M1), the codes that the paper sets NormalFloat against in its table 2."""
    return _stored(weight, "fp4", transposed=transposed, options=options)


def _stored(weight: Tensor, codes: str, *, transposed: bool, options: Mapping[str, Any]) -> Base:
    chosen = {name: options.get(name, default) for name, default in defaults.items()}
    return FourBitBase(weight, transposed=transposed, codes=codes, **chosen)
