"""A frozen weight in 4 bits: packed codes, and the numbers that scale them.

bitsandbytes packs nf4 and fp4, `_codebook.py` what it does not know.
"""

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor

from variants import _codebook
from variants._base import Base

BLOCK = 64
FORMATS = ("nf4", "fp4", *_codebook.BOOKS)
COMPUTE = {"bf16": torch.bfloat16, "fp32": torch.float32, None: None}


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
        functional = _bitsandbytes()
        dense = weight.detach().to(torch.float32)
        dense = (dense.mT if transposed else dense).contiguous()
        self.d_out, self.d_in = dense.shape
        if self.d_in % 2:  # codes come in pairs; for rows of odd length bitsandbytes compiles a kernel
            dense = torch.nn.functional.pad(dense.flatten(), (0, dense.numel() % 2))
        self._asked = compute
        packer = _codebook if codes in _codebook.BOOKS else functional
        packed, self.state = packer.quantize_4bit(
            dense, blocksize=BLOCK, quant_type=codes, compress_statistics=double_quant
        )
        self.register_buffer("packed", packed)
        self._dequantize = packer.dequantize_4bit

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
