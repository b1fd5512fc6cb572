"""4-bit code books that bitsandbytes has no kernel for: packed and unpacked in plain torch.

    W = code[c] * absmax(block),   c the nearest of at most 16 ascending codes from -1 to 1

bitsandbytes knows nf4 and fp4 only and takes no table of codes. The two functions here have the names,
arguments and layout of its own: two codes per byte, the first in the high nibble, and the scales in its
QuantState. A tie goes to the lower code.
"""

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

BOOKS = {"int4": tuple(c / 7 for c in range(-7, 8))}  # the uniform grid, symmetric around an exact zero
OUTER = 256  # scales that share a scale of their own


def quantize_4bit(
    A: Float[Tensor, "..."], *, blocksize: int, quant_type: str, compress_statistics: bool
) -> tuple[UInt8[Tensor, "bytes 1"], Any]:
    """Codes in blocks along the flattened tensor, and the state that scales them back."""
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
