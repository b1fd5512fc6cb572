"""QLoRA: adapters on a base kept in 4 bits. Dettmers et al. 2023, arXiv:2305.14314.

    Y = X doubleDequant(c1, c2, W_nf4)^T + s X A^T B^T                   (eq. 5)

NormalFloat-4: blocks of 64 weights, each weight the nearest of 16 codes times the largest magnitude of its
block. Double quantisation keeps those magnitudes in 8 bits, in blocks of 256 around their mean: 4 + 8/64 +
32/(64 * 256) = 4.127 bits per weight, 4.5 without. The code tables are constants and not counted; in a small
layer the last, partly filled block costs more.

The codes that the paper sets NormalFloat against (its table 2) are storages too, in the same blocks: fp4,
4-bit floats (E2M1), and int4, the whole numbers -7 to 7 over 7. For normal weights the mean squared error
falls from fp4 (1.49%) over int4 (1.16%) to nf4 (0.85%). bitsandbytes, and so transformers and PEFT, know nf4
and fp4 only: elsewhere a base in int4 is had by exporting it merged.

A storage, not a delta: every delta works on it. W is dequantised for the forward product and again for the
backward one, and its gradient is never formed. `compute` is the type of both products; norms of rows are
taken from the same dequantised weights.

A model is loaded straight into this storage, map by map. The embedding, norms and head stay as they are. The
option `paged` asks the optimiser to keep its moments in paged memory.

Deviations: adapters and norms are kept in float32 and follow autocast, where the authors cast adapters to
bfloat16. Paged memory is there on a GPU only, and the record says whether it was used.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from variants._base import Base
from variants._fourbit import FORMATS, FourBitBase
from variants._registry import register

defaults = {"double_quant": True, "compute": None}


def _stored(weight: Tensor, *, codes: str, transposed: bool, options: Mapping[str, Any]) -> Base:
    """A weight in a 4-bit format, with the run's options `double_quant` and `compute`."""
    chosen = {name: options.get(name, default) for name, default in defaults.items()}
    return FourBitBase(weight, transposed=transposed, codes=codes, **chosen)


for _codes in FORMATS:
    register("storage", _codes, reads=tuple(defaults))(partial(_stored, codes=_codes))
