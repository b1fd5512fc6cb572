"""Step times, and what else the machine did meanwhile: other work makes every time a fact about that work."""

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Stopwatch:
    """Wall time of stretches of training, CPU time of this process in them, and the machine's load."""

    wall: float = 0.0
    cpu: float = 0.0
    loads: list[float] = field(default_factory=list)  # at the end of each stretch, per core of the machine
    _since: tuple[float, float] = (0.0, 0.0)

    def start(self) -> None:
        """A stretch begins."""
        self._since = time.perf_counter(), time.process_time()

    def stop(self) -> float:
        """A stretch ends; its seconds."""
        wall, cpu = time.perf_counter() - self._since[0], time.process_time() - self._since[1]
        self.wall, self.cpu = self.wall + wall, self.cpu + cpu
        if hasattr(os, "getloadavg"):
            self.loads.append(os.getloadavg()[0] / (os.cpu_count() or 1))
        return wall

    def facts(self, *, on_cpu: bool) -> dict[str, float | None]:
        """How many cores this process kept busy (where it computes on them), and the mean load per core.

        A process that computes keeps a core busy all the time; less means that it waited for one.
        """
        return {
            "busy_cores": self.cpu / self.wall if on_cpu and self.wall else None,
            "load_per_core": statistics.mean(self.loads) if self.loads else None,
        }


def quartiles(interval_ms: Sequence[float]) -> dict[str, float | None]:
    """Median and quartiles of step times, the first interval (warm-up of caches and kernels) left out."""
    rest = interval_ms[1:] or interval_ms
    low, middle, high = (
        statistics.quantiles(rest, n=4, method="inclusive")
        if len(rest) > 1
        else (None, rest[0] if rest else None, None)
    )
    return {"step_ms": middle, "step_ms_low": low, "step_ms_high": high}
