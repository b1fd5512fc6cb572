"""Memory that moves from the GPU to the host, page by page, when the GPU is full: for optimiser states.

It absorbs peaks, it does not lower what is held. CUDA calls it managed memory; bitsandbytes hands it out and
has no way to give it back, so blocks are kept here for the next tensor of their size.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

_spare: dict[int, list[int]] = {}  # bytes -> addresses of blocks that no tensor uses any more


def paged_zeros_like(like: Tensor) -> Tensor:
    """Zeros of the shape and device of a float32 tensor on a GPU, in memory that pages.

    Raises:
        ImportError: bitsandbytes, which provides the memory, cannot be imported.
    """
    if like.device.type != "cuda" or like.dtype != torch.float32:
        raise ValueError(f"paged memory is for float32 on a GPU, not {like.dtype} on {like.device.type}")
    with torch.cuda.device(like.device):
        return torch.as_tensor(_Block(like.nbytes), device=like.device).view(like.shape).zero_()


class _Block:
    """A block of managed memory as other libraries read one; the tensor made of it keeps it alive."""

    def __init__(self, nbytes: int) -> None:
        from bitsandbytes.functional import lib

        spare = _spare.get(nbytes)
        self.nbytes = nbytes
        self.address = spare.pop() if spare else int(lib.cget_managed_ptr(ctypes.c_size_t(nbytes)))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": (self.nbytes // 4,), "typestr": "<f4", "data": (self.address, False), "version": 3}

    def __del__(self) -> None:
        if hasattr(self, "address"):  # not where the memory could not be had
            _spare.setdefault(self.nbytes, []).append(self.address)
