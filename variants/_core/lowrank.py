"""One differentiable operation for every low-rank delta: out = g * ((W + B diag(c) A) x) + b.

lora, dora and adalora differ only in c and g, so they share this operation and a layer of any of them costs
what its arithmetic costs: the change lands in the base's own output, the scale sits on the bottleneck, the
backward pass takes the bracketed order that forms no d_out x d_in gradient, and the gradient of x is one
buffer. The bottleneck is kept transposed, (r, N): with r small, that layout is up to eight times faster on a
CPU and no slower on a GPU. Several deltas on one layer (a mixed pack, or the q and v blocks of a fused map)
are several parts of the same operation.

    symbol   shape            meaning
    x        (K N.., d_in)    the rows of run k are x[k] of (K, N, d_in); N = rows per run times tokens
    A, B     (K, r, d_in), (K, d_out, r)
    c        number, (K, 1, 1) or (K, r, 1)     the scale s, or s times AdaLoRA's singular values
    g        (K, 1, d_out) or None              DoRA's gain per output row
    u        (K, r, N)                          A x^T, the bottleneck before c
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

_STRIP = 98_304  # numbers that stay in a core's cache
Block = slice | None  # rows of W, or None for all of them


class Factors(NamedTuple):
    """W' = g * (W + B diag(c) A), for the runs of one stacked delta."""

    A: Float[Tensor, "K r d_in"]
    B: Float[Tensor, "K d_out r"]
    c: float | Tensor
    g: Float[Tensor, "K 1 d_out"] | None = None

    def of_run(self, k: int) -> "Factors":
        """The factors of one run of the stack."""
        return Factors(*(t[k : k + 1] if isinstance(t, Tensor) and len(t) > 1 else t for t in self))

    def double(self) -> "Factors":
        """In float64."""
        return Factors(*(t.double() if isinstance(t, Tensor) else t for t in self))

    def weight(self, W: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "K d_out d_in"]:
        """The dense weights that these factors stand for."""
        dense = W + self.B @ (self.c * self.A)
        return dense if self.g is None else self.g.mT * dense


class Part(NamedTuple):
    """Where one delta acts: on these runs and these rows of W, or on the layer's whole output."""

    runs: slice
    block: Block
    whole: bool

    def rows(self, x: Tensor) -> Tensor:
        """The part's own runs."""
        return x if self.whole else x[self.runs]

    def piece(self, out: Tensor) -> Tensor:
        """The part's own piece of something shaped like the output."""
        if self.whole:
            return out
        return out[self.runs] if self.block is None else out[self.runs, :, self.block]

    def bias(self, bias: Tensor) -> Tensor:
        """The part's own piece of the bias."""
        return bias if self.block is None else bias[self.block]


EVERYWHERE = Part(slice(None), None, True)


def low_rank_linear(
    base: Any,
    bias: Tensor | None,
    x: Float[Tensor, "rows *mid d_in"],
    runs: int,
    parts: list[tuple[Part, Factors]],
) -> Float[Tensor, "rows *mid d_out"]:
    """The adapted map of a whole layer.

    Differentiable in x and in every part's A, B, c and g; never in the base.
    """
    plan: list[tuple[Part, float]] = []
    tensors: list[Tensor | None] = []
    for part, (A, B, c, g) in parts:
        number, c = (1.0, c) if isinstance(c, Tensor) else (c, None)
        plan.append((part, number))
        tensors += (A, B, c, g)
    return _LowRankLinear.apply(base, bias, runs, plan, x, *tensors)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type that arithmetic on x takes place in: autocast's where it is on, else that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class _LowRankLinear(torch.autograd.Function):
    # Once per layer and pass: on small models its own overhead counts, so no needless call, view or cast.

    @staticmethod
    def forward(ctx, base, bias, runs, plan, x, *tensors):
        dtype = compute_dtype(x)
        ctx.base, ctx.bias, ctx.plan, ctx.shape, ctx.dtype = base, bias, plan, x.shape, dtype
        x = _cast(x, dtype)
        ctx.folded = folded = _folds(base, x, runs, plan, tensors[3])
        if folded:
            result = F.linear(
                x, _gained(base, dtype, tensors[3]), bias if bias is None else _cast(bias, dtype)
            )
        else:
            result = base.product(x, bias)
        result = result.detach()  # no view, which the model could not change in place
        out, x = result.view(runs, -1, base.d_out), x.reshape(runs, -1, base.d_in)
        ctx.rows = x.shape
        saved: list[Tensor | None] = []
        for i, (part, number) in enumerate(plan):
            A, B, c, g = tensors[4 * i : 4 * i + 4]
            A, B = _cast(A, dtype), _cast(g.mT * B if folded else B, dtype)
            c = c if c is None else _cast(c, dtype)
            piece = part.piece(out)
            u = torch.bmm(A, part.rows(x).mT)
            piece.baddbmm_((u if c is None else c * u).mT, B.mT, alpha=number)
            if g is not None and not folded:
                _apply_gain_(piece, g, None if bias is None else part.bias(bias))
            saved += (A, B, c, g, u)
        gained = any(g is not None for g in tensors[3::4])
        learns = any(ctx.needs_input_grad[5::4])  # some A does; else x is not kept for backward
        ctx.save_for_backward(x if learns else None, result if gained else None, *saved)
        return result

    @staticmethod
    def backward(ctx, dout):
        x, out, *saved = ctx.saved_tensors
        dout = dout.reshape(*ctx.rows[:2], -1).contiguous()
        dz, dgs, gains = dout, None, saved[3::5]
        if out is not None:
            dgs = _gradients_of_gains(dout, out.view_as(dout), ctx.bias, ctx.plan, gains)
            dz = dout if ctx.folded else _through_gains(dout, ctx.plan, gains)
        needed = ctx.needs_input_grad
        dx = None
        if needed[4]:
            rows = dz.view(-1, dz.shape[2])
            dx = rows @ _gained(ctx.base, ctx.dtype, gains[0]) if ctx.folded else ctx.base.pullback(rows)
            dx = dx.view(ctx.rows)
        grads = [dx]
        for i, (part, number) in enumerate(ctx.plan):
            A, B, c, g, u = saved[5 * i : 5 * i + 5]
            d = part.piece(dz)
            t = torch.bmm(B.mT, d.mT)  # (K, r, N)
            dc = (t * u).sum(2, keepdim=True) if needed[7 + 4 * i] else None
            if c is not None:
                t, u = c * t, c * u
            # with beta 0 the first argument gives no more than the shape
            dA = torch.baddbmm(A, t, part.rows(x), beta=0, alpha=number) if needed[5 + 4 * i] else None
            dB = torch.baddbmm(B.mT, u, d, beta=0, alpha=number).mT if needed[6 + 4 * i] else None
            if dx is not None:
                part.rows(dx).baddbmm_(t.mT, A, alpha=number)
            grads += (dA, g.mT * dB if ctx.folded and dB is not None else dB, dc, dgs and dgs[i])
        if dx is not None:
            grads[0] = dx.view(ctx.shape)
        return None, None, None, None, *grads  # autograd casts each to the type of its input


def _cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    return t if t.dtype == dtype else t.to(dtype)


def _apply_gain_(piece: Tensor, g: Tensor, bias: Tensor | None) -> None:
    """In place g * (piece - b) + b: the bias is not scaled."""
    if bias is None:
        piece.mul_(g)
    else:
        torch.addcmul(_cast((1 - g) * bias, piece.dtype), piece, _cast(g, piece.dtype), out=piece)


def _folds(base, x: Tensor, runs: int, plan: list[tuple[Part, float]], g: Tensor | None) -> bool:
    """Whether the gain goes into W and B: cheaper than scaling the output if x has d_in rows or more.

    In a short type that would round W' anew, and the runs of a pack, which share W, differ in g.
    """
    if g is None or runs > 1 or not plan[0][0].whole or x.numel() < base.d_in**2:
        return False
    return x.dtype.itemsize >= 4 and base.compute in (None, x.dtype)


def _gained(base, dtype: torch.dtype, g: Float[Tensor, "1 1 d_out"]) -> Float[Tensor, "d_out d_in"]:
    """g W, dense for as long as a product takes."""
    return _cast(g[0].mT, dtype) * base.weight(dtype)


def _gradients_of_gains(dout, out, bias, plan, gains) -> list[Tensor | None]:
    """Of every g in out = g z + b. z is not kept: it is (out - b) / g, dead where g = 0."""
    dgs: list[Tensor | None] = []
    for (part, _), g in zip(plan, gains, strict=True):
        if g is None:
            dgs.append(None)
            continue
        d = part.piece(dout)
        total = _column_products(d, part.piece(out), g.dtype)
        if bias is not None:
            total -= part.bias(bias) * d.sum(1, keepdim=True, dtype=g.dtype)
        dgs.append(torch.where(g == 0, 0.0, total / g))
    return dgs


def _column_products(
    d: Float[Tensor, "K N d_out"], out: Float[Tensor, "K N d_out"], dtype: torch.dtype
) -> Float[Tensor, "K 1 d_out"]:
    """The sum over n of d * out.

    On a CPU in strips of rows that stay in its cache: fresh memory for the whole product costs more than it.
    """
    if d.device.type != "cpu" or d.dtype != dtype:
        return (d * out).sum(1, keepdim=True, dtype=dtype)
    strip = max(1, _STRIP // (d.shape[0] * d.shape[2]))
    total = d.new_zeros(d.shape[0], min(strip, d.shape[1]), d.shape[2])
    for of_d, of_out in zip(d.split(strip, 1), out.split(strip, 1), strict=True):
        total[:, : of_d.shape[1]].addcmul_(of_d, of_out)
    return total.sum(1, keepdim=True)


def _through_gains(dout, plan, gains) -> Tensor:
    """The gradient of z in out = g z + b."""
    if len(plan) == 1 and plan[0][0].whole:
        return dout * _cast(gains[0], dout.dtype)
    dz = dout.clone()
    for (part, _), g in zip(plan, gains, strict=True):
        if g is not None:
            part.piece(dz).mul_(g)
    return dz
