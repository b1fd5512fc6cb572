"""LoRA: low-rank adaptation. Hu et al. 2021, arXiv:2106.09685.

    W' = W + s B A,   s = alpha / r                  (eq. 3)
    B = 0 at the start, so W' = W

    symbol   name   shape            role
    A        A      (K, r, d_in)     in       Kaiming-uniform, a = sqrt(5): U(-1/sqrt(d_in), 1/sqrt(d_in))
    B        B      (K, d_out, r)    out      zero

Deviations: the paper draws A from a Gaussian, the authors' code from the uniform distribution above. The code
is followed (`init: kaiming`); `init: gaussian` draws N(0, 1/d_in), whose variance is independent of r too.
Dropout acts on the input of A only.
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from variants._core.base import Base
from variants._core.delta import Clock, Delta
from variants._core.init import Init, Start
from variants._core.lowrank import Factors
from variants._core.registry import register
from variants._core.run import Slot
from variants._core.seeds import generator, normal, uniform


@register("init", "kaiming")
class Kaiming(Init):
    """A ~ U(-1/sqrt(d_in), 1/sqrt(d_in)), B = 0."""

    @staticmethod
    def start(slot: Slot, base: Base, seen: Tensor) -> Start:
        """As the authors' code."""
        return _drawn(slot, base, uniform)


@register("init", "gaussian")
class Gaussian(Init):
    """A ~ N(0, 1/d_in), B = 0."""

    @staticmethod
    def start(slot: Slot, base: Base, seen: Tensor) -> Start:
        """As the paper, with the variance left open there."""
        return _drawn(slot, base, normal)


def _drawn(slot: Slot, base: Base, draw: Callable[..., Tensor]) -> Start:
    source = generator(slot.seed, "init", slot.name, "A")
    A = draw((slot.rank, base.d_in), 1 / math.sqrt(base.d_in), source)
    return Start(A, torch.zeros(base.d_out, slot.rank))


@register("delta", "lora")
class LoRA(Delta):
    """W' = W + s B A."""

    roles: ClassVar = {"A": "in", "B": "out"}
    shapes: ClassVar = {"A": "r d_in", "B": "d_out r"}
    peft: ClassVar = {"A": "A", "B": "B"}
    any_init: ClassVar = True
    defaults: ClassVar = {"init": "kaiming"}

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)
        self.begin(base)

    def factors(self, base: Base) -> Factors:
        """c is the scale."""
        return Factors(*self.joined(), self.scale if self.number is None else self.number)
