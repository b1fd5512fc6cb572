"""Dense storages: the frozen weight as floating-point numbers, and a view of some of its rows."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from variants._base import Base, wide
from variants._registry import register


class DenseBase(Base):
    """W as it is, at any floating-point width.

    A `transposed` weight is (d_in, d_out), as GPT-2's Conv1D keeps it.
    """

    def __init__(self, weight: Tensor, *, transposed: bool = False) -> None:
        super().__init__()
        self.stored = nn.Parameter(weight.detach(), requires_grad=False)
        self.transposed = transposed
        self.d_out, self.d_in = weight.shape[::-1] if transposed else weight.shape

    @property
    def dtype(self) -> torch.dtype:
        """The stored type."""
        return self.stored.dtype

    @property
    def device(self) -> torch.device:
        """Where the weight lies."""
        return self.stored.device

    @property
    def nbytes(self) -> int:
        """Bytes of the stored weight."""
        return self.stored.nbytes

    def weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """W; a view, not a copy, where no other type is asked for."""
        weight = self.stored.mT if self.transposed else self.stored
        return weight if dtype in (None, weight.dtype) else weight.to(dtype)

    def shown(self) -> Tensor:
        """The parameter in the layout of the layer that it came from."""
        return self.stored


class BlockOf(Base):
    """Some rows of another base, the query block of GPT-2's fused c_attn, say. It stores nothing itself."""

    def __init__(self, whole: Base, block: slice) -> None:
        super().__init__()
        self._whole = (whole,)  # in a tuple, so that the layer stays its only owner
        self.block, self.d_in, self.d_out = block, whole.d_in, block.stop - block.start

    @property
    def dtype(self) -> torch.dtype:
        """As the whole."""
        return self._whole[0].dtype

    @property
    def device(self) -> torch.device:
        """As the whole."""
        return self._whole[0].device

    @property
    def nbytes(self) -> int:
        """Nothing is stored here."""
        return 0

    def weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """The rows of the block."""
        return self._whole[0].weight(dtype)[self.block]


@register("storage", "fp32")
def full_precision(weight: Tensor, *, transposed: bool, options: Mapping[str, Any]) -> Base:
    """At least float32. A weight that is so already is shared, not copied."""
    return DenseBase(weight.to(wide(weight.dtype)), transposed=transposed)


@register("storage", "bf16")
def half_precision(weight: Tensor, *, transposed: bool, options: Mapping[str, Any]) -> Base:
    """Bfloat16, half the bytes. Products still take place in the type of x, or in autocast's."""
    return DenseBase(weight.to(torch.bfloat16), transposed=transposed)
