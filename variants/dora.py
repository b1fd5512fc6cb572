"""DoRA: weight-decomposed low-rank adaptation. Liu et al. 2024, arXiv:2402.09353.

    W' = m V / ||V||,   V = W + s B A                          (eq. 5)
    m = ||W|| at the start, so W' = W;  ||V|| is a constant in the backward pass       (sec. 4.3)

    symbol   name   shape            role
    A        A      (K, r, d_in)     in          as LoRA
    B        B      (K, d_out, r)    out         zero
    m        m      (K, d_out)       magnitude   norms of the rows of W, one per output as in the code

A and B may start otherwise (`init`); where the start is subtracted, V = W + s (B A - B0 A0).

The norm depends on A and B alone, so it is worked out once per optimiser step, in the Gram form ||V||^2 =
||W||^2 + 2 s <W A^T, B> + s^2 <B A A^T, B> by rows, in float32, without a d_out x d_in matrix. Where that
cancels (below 1e-4 of ||W||^2) the rows are formed and summed as they are.

Dropout as the authors' code: W x undropped, (g - 1) W x~ and g s B A x~ with one mask, g = m / ||V||; the
norm knows no dropout. `reuse_base_with_dropout: true` is another model, g (W x + s B A x~), that spares the
second base product.

Deviations: a row of V that is zero has g = m instead of a division by zero, so that a zero row of W stays
zero.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from variants._core.base import Base
from variants._core.delta import Clock, Delta, Held
from variants._core.lowrank import EVERYWHERE, Factors
from variants._core.registry import register
from variants._core.run import Slot

CANCELS = 1e-4  # of ||W||^2: below this the Gram form has lost too many digits


@register("delta", "dora")
class DoRA(Delta):
    """W' = m (W + s B A) / ||W + s B A||, by rows."""

    roles: ClassVar = {"A": "in", "B": "out", "m": "magnitude"}
    shapes: ClassVar = {"A": "r d_in", "B": "d_out r", "m": "d_out"}
    peft: ClassVar = {"A": "A", "B": "B", "m": "m"}
    any_init: ClassVar = True
    defaults: ClassVar = {"init": "kaiming", "reuse_base_with_dropout": False}

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)
        self.begin(base)
        self.m = self.stacked([base.row_squares().sqrt()] * len(slots), base)
        self.reuse_base = bool(self.option(0, "reuse_base_with_dropout"))
        self._norms: Tensor | None = None
        self._made_from: tuple = ()

    @classmethod
    def stack_key(cls, slot: Slot) -> tuple:
        """Both readings of dropout do not stack."""
        reuse = slot.options.get("reuse_base_with_dropout", cls.defaults["reuse_base_with_dropout"])
        return (*super().stack_key(slot), bool(reuse))

    @torch.no_grad()
    def start(self, k: int, base: Base, seen: Tensor, rank: int | None = None) -> None:
        """As that of A and B; m is the norms of what the run starts with, so that g = 1."""
        super().start(k, base, seen, rank)
        A, B = self.joined()
        self.m[k] = (base.weight(A.dtype) + self.scale[k] * (B[k] @ A[k])).norm(dim=1)
        self._norms = None

    def factors(self, base: Base) -> Factors:
        """g = m / ||V||, differentiable in m only."""
        if self._norms is None or self._made_from != self._versions():
            self.refresh([Held(EVERYWHERE, self, base)])
        g = (self.m / self._norms)[:, None]
        return Factors(*self.joined(), self.scale if self.number is None else self.number, g)

    def forward(self, x: Tensor, y: Tensor, base: Base) -> Tensor:
        """The authors' reading of dropout, from y = base.linear(x)."""
        if not self.drops or self.reuse_base:
            return super().forward(x, y, base)
        A, B, c, g = self.factors(base)
        dropped = self.dropped(x)
        yd = base.linear(dropped)
        z = torch.baddbmm(yd, (c * (A @ dropped.mT)).mT, B.mT)
        return (y - yd + g * z).to(y.dtype)

    def _versions(self) -> tuple:
        return self.A._version, self.B._version, self.A.data_ptr(), self.clock.step

    @classmethod
    def expire(cls, held: Sequence[Held]) -> None:
        """The norms are those of the parameters before the optimiser's step."""
        for h in held:
            h.delta._norms = None

    @classmethod
    @torch.inference_mode(False)
    @torch.no_grad()
    def refresh(cls, held: Sequence[Held]) -> None:
        """||V|| of all layers.

        Whether any row cancels is asked once for all, as the answer has to come from the device.
        """
        squares = [h.delta._gram(h.base) for h in held]
        unsafe = [n2 < CANCELS * h.base.row_squares() for n2, h in zip(squares, held, strict=True)]
        if bool(torch.stack([rows.any() for rows in unsafe]).any()):
            for n2, rows, h in zip(squares, unsafe, held, strict=True):
                h.delta._exact_(n2, rows, h.base)
        for n2, h in zip(squares, held, strict=True):
            h.delta._norms = torch.where(n2 > 0, n2.sqrt(), 1.0)
            h.delta._made_from = h.delta._versions()

    def _gram(self, base: Base) -> Tensor:
        """||V||^2 by rows, (K, d_out)."""
        A, B = self.joined()
        K, r, d_in = A.shape
        with torch.autocast(A.device.type, enabled=False):
            WA = (base.weight(A.dtype) @ A.reshape(K * r, d_in).T).view(-1, K, r).transpose(0, 1)
            sB = self.scale * B
            return base.row_squares() + ((2 * WA + sB @ (A @ A.mT)) * sB).sum(-1)

    def _exact_(self, n2: Tensor, rows: Tensor, base: Base) -> None:
        """Replace the marked entries of n2 by sums over rows of V that are formed."""
        A, B = self.joined()
        for k, j in rows.nonzero().tolist():
            V = base.weight(A.dtype)[j] + self.scale[k, 0, 0] * (B[k, j] @ A[k])
            n2[k, j] = V.square().sum()
