"""QLoRA: adapters on a base kept in 4 bits. Dettmers et al. 2023, arXiv:2305.14314.

    Y = X doubleDequant(c1, c2, W_nf4)^T + s X A^T B^T                   (eq. 5)

NormalFloat-4: blocks of 64 weights, each weight the nearest of 16 codes times the largest magnitude of its
block. Double quantisation keeps those magnitudes in 8 bits, in blocks of 256 around their mean: 4 + 8/64 +
32/(64 * 256) = 4.127 bits per weight, 4.5 without. The code tables are constants and not counted; in a small
layer the last, partly filled block costs more.

The codes that the paper sets NormalFloat against (its table 2) are storages too, in the same blocks: fp4,
4-bit floats (E2M1), and int4, the whole numbers -7 to 7 over 7. For normal weights the mean squared error
falls from fp4 (1.49%) over int4 (1.16%) to nf4 (0.85%). bitsandbytes, and so transformers and PEFT, know nf4
and fp4 only and take no other table of codes: int4 is packed here in plain torch, in the same layout, and
elsewhere a base in int4 is had by exporting it merged.

A storage, not a delta: every delta works on it. W is dequantised for the forward product and again for the
backward one, and its gradient is never formed. `compute` is the type of both products; norms of rows are
taken from the same dequantised weights.

A model is loaded straight into this storage, map by map. The embedding, norms and head stay as they are. The
option `paged` asks the optimiser to keep its moments in paged memory.

Deviations: adapters and norms are kept in float32 and follow autocast, where the authors cast adapters to
bfloat16. Paged memory is there on a GPU only, and the record says whether it was used.
"""

import copy
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from variants._core.base import Base
from variants._core.registry import register

BLOCK = 64  # weights that share a scale
OUTER = 256  # scales that share a scale of their own
BOOKS = {"int4": tuple(c / 7 for c in range(-7, 8))}  # the uniform grid, symmetric around an exact zero
FORMATS = ("nf4", "fp4", *BOOKS)
COMPUTE = {"bf16": torch.bfloat16, "fp32": torch.float32, None: None}
defaults = {"double_quant": True, "compute": None}


@cache
def fast_compute(device: str) -> str:
    """What `compute: auto` stands for: bf16, but fp32 on a CPU that is ten times slower in bf16."""
    slow = not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "fp32" if device == "cpu" and slow else "bf16"


class FourBitBase(Base):
    """W as packed 4-bit codes and the numbers that scale them, on the device that the weight was on.

    The scales never change, so that copies of a model share them.
    """

    dtype = torch.float32  # of dequantised weights where nobody asks for another type
    packed: Tensor

    def __init__(
        self,
        weight: Tensor,
        *,
        transposed: bool = False,
        codes: str = "nf4",
        double_quant: bool = True,
        compute: str | None = None,
    ) -> None:
        super().__init__()
        if compute != "auto" and compute not in COMPUTE:
            raise ValueError(f"compute {compute!r} is unknown: auto, bf16 or fp32.")
        dense = weight.detach().to(torch.float32)
        dense = (dense.mT if transposed else dense).contiguous()
        self.d_out, self.d_in = dense.shape
        # Codes come in pairs. As one long row: rows of odd length have no kernel in bitsandbytes, and where
        # they end within a block (96 x 80) its kernel for AVX-512, in 0.50.2, reads wrong weights.
        dense = F.pad(dense.flatten(), (0, dense.numel() % 2))
        self._asked = compute
        functional = _bitsandbytes()
        own = codes in BOOKS
        pack = quantize_4bit if own else functional.quantize_4bit
        packed, self.state = pack(dense, blocksize=BLOCK, quant_type=codes, compress_statistics=double_quant)
        self.register_buffer("packed", packed)
        self._dequantize = dequantize_4bit if own else functional.dequantize_4bit

    def __deepcopy__(self, memo: dict[int, Any]) -> "FourBitBase":
        """A copy, whose codes are shared where `memo` says so."""
        new = type(self).__new__(type(self))
        memo |= {id(self): new, id(self.state): self.state}
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return new

    def _apply(self, fn: Any, recurse: bool = True) -> "FourBitBase":
        """Move the scales with the codes; neither is ever cast."""
        before, after = self.packed, fn(self.packed)
        self.packed = after if after.dtype == before.dtype else before
        if self.packed.device != before.device:
            self.state = copy.deepcopy(self.state)
            self.state.to(self.packed.device)
        return self

    @property
    def compute(self) -> torch.dtype | None:
        """The type of products, on the device that the codes are on; None: that of the input."""
        return COMPUTE[fast_compute(self.device.type) if self._asked == "auto" else self._asked]

    @property
    def device(self) -> torch.device:
        """Where the codes lie."""
        return self.packed.device

    @property
    def nbytes(self) -> int:
        """Codes and scales, counted from the stored tensors; the constant tables are left out."""
        scales = [self.state.absmax]
        if self.state.nested:
            scales += [self.state.state2.absmax, self.state.offset]
        return self.packed.nbytes + sum(t.nbytes for t in scales)

    def weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """W dequantised, straight to a 16- or 32-bit type, or through float32 to a wider one."""
        direct = dtype if dtype in (torch.bfloat16, torch.float16) else torch.float32
        state = copy.copy(self.state)
        state.dtype = direct
        flat = self._dequantize(self.packed, state).flatten()[: self.d_out * self.d_in]
        dense = flat.view(self.d_out, self.d_in)
        return dense if dtype is None else dense.to(dtype)

    def shown(self) -> Tensor:
        """A weight of the right shape and type without content: to be looked at, not computed with."""
        return torch.empty(self.d_out, self.d_in, dtype=self.compute or self.dtype, device="meta")

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Forward in the compute type, the result in the type of x."""
        return super().product(x.to(self.compute or x.dtype), bias).to(x.dtype)

    def pullback(self, dy: Tensor) -> Tensor:
        """Backward likewise, from weights dequantised anew."""
        return super().pullback(dy.to(self.compute or dy.dtype)).to(dy.dtype)


def _bitsandbytes() -> Any:
    try:
        from bitsandbytes import functional
    except ImportError as error:
        raise ImportError(
            "storage in 4 bits needs bitsandbytes, which could not be imported. "
            "Install it (pip install bitsandbytes) or choose storage=bf16."
        ) from error
    return functional


def quantize_4bit(
    A: Float[Tensor, "..."], *, blocksize: int, quant_type: str, compress_statistics: bool
) -> tuple[UInt8[Tensor, "bytes 1"], Any]:
    """Codes in blocks along the flattened tensor, two to a byte, the first in the high nibble; their state.

    The code is the nearest to the weight over its block's largest magnitude; the lower one of two as near.
    Name, arguments and layout are those of bitsandbytes.
    """
    from bitsandbytes.functional import QuantState, quantize_blockwise

    book = torch.tensor(BOOKS[quant_type], device=A.device)
    blocks = F.pad(A.flatten(), (0, -A.numel() % blocksize)).view(-1, blocksize)
    absmax = blocks.abs().amax(dim=1)
    scaled = blocks / absmax.clamp(min=torch.finfo(absmax.dtype).tiny)[:, None]
    nearest = torch.bucketize(scaled, (book[1:] + book[:-1]) / 2, out_int32=True).to(torch.uint8)
    codes = nearest.flatten()[: A.numel() + A.numel() % 2]
    packed = (codes[::2] << 4 | codes[1::2])[:, None]
    offset, outer = None, None
    if compress_statistics:
        offset = absmax.mean()
        absmax, outer = quantize_blockwise(absmax - offset, blocksize=OUTER)
    state = QuantState(
        absmax, A.shape, _pairs(book), blocksize, quant_type, dtype=A.dtype, offset=offset, state2=outer
    )
    return packed, state


def dequantize_4bit(packed: UInt8[Tensor, "bytes 1"], state: Any) -> Float[Tensor, "..."]:
    """The tensor as `state.dtype`, multiplied out in float32."""
    from bitsandbytes.functional import dequantize_blockwise

    absmax = state.absmax
    if state.nested:
        absmax = dequantize_blockwise(absmax, state.state2) + state.offset
    codes = F.embedding(packed.flatten().int(), state.code).flatten()
    if missing := -len(codes) % state.blocksize:
        codes = F.pad(codes, (0, missing))
    flat = codes.view(-1, state.blocksize).mul_(absmax[:, None]).flatten()
    return flat[: state.shape.numel()].view(state.shape).to(state.dtype)


def _pairs(book: Float[Tensor, " codes"]) -> Float[Tensor, "256 2"]:
    """The two codes of every byte."""
    full = F.pad(book, (0, 16 - len(book)))
    return torch.cartesian_prod(full, full)


def _stored(weight: Tensor, *, codes: str, transposed: bool, options: Mapping[str, Any]) -> Base:
    """A weight in a 4-bit format, with the run's options `double_quant` and `compute`."""
    chosen = {name: options.get(name, default) for name, default in defaults.items()}
    return FourBitBase(weight, transposed=transposed, codes=codes, **chosen)


for _codes in FORMATS:
    register("storage", _codes, reads=tuple(defaults))(partial(_stored, codes=_codes))
