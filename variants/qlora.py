"""QLoRA: adapters on a base kept in 4 bits. Dettmers et al. 2023, arXiv:2305.14314.

    Y = X doubleDequant(c1, c2, W_nf4)^T + s X A^T B^T                   (eq. 5)

NormalFloat-4: blocks of 64 weights, each weight the nearest of 16 codes times the largest magnitude of its
block. Double quantisation keeps those magnitudes in 8 bits, in blocks of 256 around their mean: 4 + 8/64 +
32/(64 * 256) = 4.127 bits per weight, 4.5 without. The code tables are constants and not counted; in a small
layer the last, partly filled block costs more.

A storage, not a delta: every delta works on it. W is dequantised for the forward product and again for the
backward one, and its gradient is never formed. `compute` is the type of both products; norms of rows are
taken from the same dequantised weights.

Deviations: adapters are kept in float32 and follow autocast, where the authors cast them to bfloat16. Paged
optimiser states are the optimiser's business. The embedding, norms and head stay as they are.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from variants._base import Base
from variants._registry import register

BLOCK = 64
COMPUTE = {"bf16": torch.bfloat16, "fp32": torch.float32, None: None}
defaults = {"double_quant": True, "compute": None}


def fast_compute(device: torch.device) -> str:
    """What `compute: auto` stands for: bf16, but fp32 on a CPU that is ten times slower in bf16."""
    if device.type == "cpu" and not (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    ):
        return "fp32"
    return "bf16"


class NF4Base(Base):
    """W as packed 4-bit codes and the numbers that scale them, on the device that the weight was on."""

    dtype = torch.float32  # of dequantised weights where nobody asks for another type
    packed: Tensor

    def __init__(
        self,
        weight: Tensor,
        *,
        transposed: bool = False,
        double_quant: bool = True,
        compute: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        functional = _bitsandbytes()
        dense = weight.detach().to(torch.float32)
        dense = (dense.mT if transposed else dense).contiguous()
        self.d_out, self.d_in = dense.shape
        if self.d_in % 2:  # codes come in pairs; for rows of odd length bitsandbytes compiles a kernel
            dense = torch.nn.functional.pad(dense.flatten(), (0, dense.numel() % 2))
        self.compute = compute
        packed, self.state = functional.quantize_4bit(
            dense, blocksize=BLOCK, quant_type="nf4", compress_statistics=double_quant
        )
        self.register_buffer("packed", packed)
        self._dequantize = functional.dequantize_4bit

    def _apply(self, fn: Any, recurse: bool = True) -> "NF4Base":
        """Move the scales with the codes; neither is ever cast."""
        before, after = self.packed, fn(self.packed)
        self.packed = after if after.dtype == before.dtype else before
        if self.packed.device != before.device:
            self.state = copy.deepcopy(self.state)
            self.state.to(self.packed.device)
        return self

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


@register("storage", "nf4")
def nf4(weight: Tensor, *, transposed: bool, options: Mapping[str, Any]) -> Base:
    """4-bit NormalFloat, with the run's options `double_quant` and `compute`."""
    chosen = {name: options.get(name, default) for name, default in defaults.items()}
    if chosen["compute"] == "auto":
        chosen["compute"] = fast_compute(weight.device)
    if chosen["compute"] not in COMPUTE:
        raise ValueError(f"compute {chosen['compute']!r} is unknown: auto, bf16 or fp32.")
    compute = COMPUTE[chosen["compute"]]
    return NF4Base(weight, transposed=transposed, double_quant=bool(chosen["double_quant"]), compute=compute)


def _bitsandbytes() -> Any:
    try:
        from bitsandbytes import functional
    except ImportError as error:
        raise ImportError(
            "storage nf4 needs bitsandbytes, which could not be imported. "
            "Install it (pip install bitsandbytes) or choose storage=bf16."
        ) from error
    return functional
