"""When AdaLoRA masks, and down to how many triplets: eq. 14 as the authors' code has it."""

import math
import warnings
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The budget over a run of T steps, numbered from 0; `of` reads it from a run's options."""

    T: int
    t_i: int  # steps before pruning starts
    t_f: int  # steps after it has ended
    interval: int
    first: int  # triplets at the start
    last: int

    @classmethod
    def of(
        cls, steps: int, *, t_init: float, t_final: float, interval: int, first: int, last: int
    ) -> "Schedule":
        """From options: t_init and t_final as shares of the run below 1, or in steps; ValueError if wrong."""
        made = cls(steps, _steps(t_init, steps), _steps(t_final, steps), int(interval), first, last)
        made._check()
        for text in made.doubts():
            warnings.warn(text, stacklevel=2)
        return made

    def _check(self) -> None:
        if self.interval < 1 or self.t_i + self.t_f >= self.T > 1:
            raise ValueError(
                f"AdaLoRA has no step to prune in: t_init is {self.t_i} and t_final {self.t_f} of {self.T} "
                f"steps, interval {self.interval}."
            )

    def doubts(self) -> list[str]:
        """What is allowed and hardly meant."""
        if self.last >= self.first:
            return []
        found = []
        if self.t_i == 0:
            found.append("t_init is 0: AdaLoRA prunes from its second step on, hardly any scores.")
        if not (self.masks(self.T - 1) and self.planned(self.T - 1) == self.last):
            found.append(
                f"t_final is {self.t_f} steps, interval {self.interval}: no mask to AdaLoRA's last budget "
                f"follows the last step, so that more than {self.last} of {self.first} triplets may be left. "
                "Choose a longer t_final."
            )
        return found

    def planned(self, step: int) -> int:
        """b(t)."""
        if step <= self.t_i:
            return self.first
        if self.final(step):
            return self.last
        left = 1 - (step - self.t_i) / (self.T - self.t_f - self.t_i)
        return int(self.last + (self.first - self.last) * left**3)

    def final(self, step: int) -> bool:
        """Whether this step is in the final phase."""
        return step > self.T - self.t_f

    def scores(self, step: int) -> bool:
        """Whether the scores still take in this step."""
        return step < self.T - self.t_f

    def masks(self, step: int) -> bool:
        """Whether a mask follows this step: always in the final phase, every `interval` steps before it."""
        return self.planned(step) < self.first and (self.final(step) or step % self.interval == 0)


def _steps(value: float, total: int) -> int:
    """A share of the run below 1, steps from 1 on."""
    if value < 0:
        raise ValueError(f"t_init and t_final are shares of the run or steps, not {value:g}.")
    if value >= 1 and value != int(value):
        raise ValueError(f"t_init and t_final are whole numbers of steps from 1 on, not {value:g}.")
    return math.floor(round(value * total, 9)) if value < 1 else int(value)  # 0.57 of 100 is 57
