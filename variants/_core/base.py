"""Base: a frozen linear map in its storage, and the dense storages; those in 4 bits are QLoRA's.

W is (d_out, d_in), x is (..., d_in), y = x W^T is (..., d_out).
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from variants._core.lowrank import compute_dtype
from variants._core.registry import register


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type of trained parameters and norms on a base of this type: float32, or float64 where that is."""
    return torch.promote_types(dtype, torch.float32)


class Base(nn.Module):
    """A frozen linear map. A storage says how the dense weight is had back; the products follow from that."""

    d_in: int
    d_out: int
    dtype: torch.dtype  # of the weight as handed out

    def weight(self, dtype: torch.dtype | None = None) -> Float[Tensor, "d_out d_in"]:
        """W, dense and dequantised, in `dtype` (None: `self.dtype`)."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes that the stored form takes."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the stored form lies."""
        raise NotImplementedError

    @property
    def compute(self) -> torch.dtype | None:
        """The type of its products; None: that of x."""
        return None

    def shown(self) -> Tensor:
        """What a model's own code gets when it reads `layer.weight`. T5 does, for the dtype."""
        return self.weight()

    def rows(self, block: slice, dtype: torch.dtype | None = None) -> Float[Tensor, "rows d_in"]:
        """Some rows of W, as `weight` gives all."""
        return self.weight(dtype)[block]

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The raw forward product x W^T + bias, outside autograd."""
        if bias is not None and bias.dtype != x.dtype:
            bias = bias.to(x.dtype)
        return F.linear(x, self.weight(x.dtype), bias)

    def pullback(self, dy: Tensor) -> Tensor:
        """The raw backward product dy W, outside autograd."""
        return dy @ self.weight(dy.dtype)

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The product x W^T + bias, differentiable in x. Keeps neither x nor a dense W for backward."""
        return _FrozenLinear.apply(x.to(compute_dtype(x)), self, bias)

    def row_squares(self) -> Float[Tensor, " d_out"]:
        """||W||^2 of each row, at least in float32; worked out once, as W never changes."""
        kept = getattr(self, "_row_squares", None)
        if kept is None or kept.device != self.device:
            with torch.no_grad():
                kept = self._row_squares = self.weight(wide(self.dtype)).square().sum(dim=1)
        return kept

    def digest(self) -> str:
        """SHA-256 of W, its shape and its type; worked out once, as W never changes."""
        if not hasattr(self, "_digest"):
            W = self.weight().detach().contiguous().cpu()
            said = hashlib.sha256(f"{tuple(W.shape)} {W.dtype}".encode())
            said.update(W.view(torch.uint8).numpy())
            self._digest = said.hexdigest()
        return self._digest


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, base, bias):
        ctx.base = base
        return base.product(x, bias).detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        return ctx.base.pullback(dy), None, None


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


class StackBase(DenseBase):
    """The matrices of all experts as one map, one expert after another in its rows.

    Stored as the model has them, (E, d_out / E, d_in), or (E, d_in, d_out / E) if `transposed`.
    """

    def __init__(self, stack: Float[Tensor, "E _ _"], *, transposed: bool = False) -> None:
        super().__init__(stack[0], transposed=transposed)
        self.stored = nn.Parameter(stack.detach(), requires_grad=False)
        self.each, self.d_out = self.d_out, self.d_out * len(stack)

    def weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """W; a copy where the stack is transposed."""
        return super().weight(dtype).flatten(0, 1)

    def rows(self, block: slice, dtype: torch.dtype | None = None) -> Tensor:
        """One expert's matrix, without a look at the others."""
        one = self.stored[block.start // self.each]
        one = one.mT if self.transposed else one
        return one if dtype is None else one.to(dtype)

    def stacked(self, W: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "E _ _"]:
        """Rows of all experts, in the layout of the model."""
        stack = W.unflatten(0, (-1, self.each))
        return stack.mT.contiguous() if self.transposed else stack


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
        return self._whole[0].rows(self.block, dtype)


@register("storage", "fp32")
def full_precision(weight: Tensor, *, transposed: bool, options: Mapping[str, Any]) -> Base:
    """At least float32. A weight that is so already is shared, not copied."""
    return DenseBase(weight.to(wide(weight.dtype)), transposed=transposed)


@register("storage", "bf16")
def half_precision(weight: Tensor, *, transposed: bool, options: Mapping[str, Any]) -> Base:
    """Bfloat16, half the bytes. Products still take place in the type of x, or in autocast's."""
    return DenseBase(weight.to(torch.bfloat16), transposed=transposed)
