"""FourierFT: a few Fourier coefficients of the change. Gao et al. 2024, arXiv:2405.03003.

    W' = W + alpha Re(F^-1(C)),   C = c at n places, zero elsewhere         (eq. 2 to 4)
    F^-1(C)[j, l] = sum over u, v of C[u, v] e^{2 pi i (u j / d_out + v l / d_in)} / (d_out d_in)

    symbol   name     shape            role
    c        c        (K, n)           diag   zero
    places   places   (K, n)           -      drawn without repetition, the same for all layers of one size
    n        -        -                -      n_per_r * r, at most d_in d_out
    alpha    -        -                -      fourier_scale

Trained parameters: n a map. The paper has n and no r; n_per_r lets it stand in a sweep over ranks, and r = 8
gives the 1000 of its GLUE runs.

Deviations: c starts at zero, not at N(0, 1), so that W' = W. No entry is preferred by its frequency. The
dense change is formed once a pass.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from variants._core.base import Base
from variants._core.delta import Clock, Delta
from variants._core.registry import register
from variants._core.run import Slot
from variants._core.seeds import generator


@register("delta", "fourierft")
class FourierFT(Delta):
    """W' = W + alpha Re(F^-1(C))."""

    roles: ClassVar = {"c": "diag"}
    defaults: ClassVar = {"n_per_r": 125, "fourier_scale": 150.0}
    low_rank = False

    def __init__(self, base: Base, slots: Sequence[Slot], *, clock: Clock) -> None:
        super().__init__(base, slots, clock=clock)
        n = self.sizes(slots[0].rank, base.d_in, base.d_out, slots[0].options)["diag"]
        self.c = self.stacked([torch.zeros(n) for _ in slots], base)
        sources = (generator(s.seed, "init", "fourierft", base.d_out, base.d_in) for s in slots)
        places = [torch.randperm(base.d_out * base.d_in, generator=source)[:n] for source in sources]
        self.register_buffer("places", torch.stack(places).to(base.device), persistent=False)
        scales = [self.option(k, "fourier_scale") for k in range(len(slots))]
        self.register_buffer("alpha", self.scale.new_tensor(scales)[:, None, None], persistent=False)

    @classmethod
    def sizes(cls, rank: int, d_in: int, d_out: int, options: Mapping[str, Any]) -> Mapping[str, int]:
        """N in closed form."""
        return {"diag": min(int(options.get("n_per_r", cls.defaults["n_per_r"])) * rank, d_in * d_out)}

    @classmethod
    def stack_key(cls, slot: Slot) -> tuple:
        """Runs of unlike n do not stack."""
        return (*super().stack_key(slot), slot.options.get("n_per_r"))

    def change(self, base: Base) -> Tensor:
        """Alpha Re(F^-1(C))."""
        C = self.c.new_zeros(len(self.c), base.d_out * base.d_in).scatter(1, self.places, self.c)
        return self.scale * self.alpha * torch.fft.ifft2(C.view(-1, base.d_out, base.d_in)).real
