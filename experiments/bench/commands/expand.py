"""A large plan: cells expanded, checked, named, told apart and compared with what is done; then claimed.

python -m experiments.bench expand [--cells 100000] [--done 1000] [--claims 10000] [--csv FILE]

The target is 60 s and 2 GB for 100,000 cells; seconds of CPU stand beside those of the clock, which tell
little on a busy machine. Claims are of empty runs and all held at the end; the last thousand must cost what
the first did.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from experiments import data
from experiments.bench.commands._common import write_csv
from experiments.bench.fake import finish, specs_of
from experiments.sweep.lease import acquire
from experiments.sweep.plan import kinds, plan
from experiments.sweep.study import write_requested

SECONDS, GIGABYTES = 60.0, 2.0


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--done", type=int, default=1000, help="so many of them have finished")
    parser.add_argument("--claims", type=int, default=10_000, help="so many of them are claimed, all at once")
    parser.add_argument("--csv", type=Path)


def main(options: argparse.Namespace) -> None:
    seeds = max(1, options.cells // 100)
    words = [
        "variant=lora,dora,rslora,loraplus,adalora", "r=2,4,8,16", "lr=1e-4,3e-4,1e-3,3e-3,1e-2",
        f"seed=range(0,{seeds})", "study=bench",
    ]  # fmt: skip
    rows: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        watch = _Watch(rows)
        specs = specs_of(*words)
        watch.note("expanded and checked")
        for spec in specs[: options.done]:
            finish(spec, root / "bench" / spec.run_id(data.fingerprint(spec)), adapter_bytes=1000)
        watch.start()
        found = plan([*specs, *specs[:7]], fingerprints=data.fingerprint, root=root)
        watch.note("named, told apart, compared")
        write_requested(root / "bench", (*found.done, *found.todo))
        groups = kinds(spec for spec, _ in found.todo)
        watch.note("list and specs left behind")
        rows += [(f"sum, target {SECONDS:g} s", watch.wall), ("sum, s of CPU", watch.cpu)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        rows.append((f"peak memory, target {GIGABYTES:g} GB", peak))
        rows += _claims(root / "claims", [run_id for _, run_id in found.todo[: options.claims]])
    print(f"{len(specs)} cells: {len(found.done)} done, {len(found.todo)} left, of {len(groups)} kinds")
    for name, value in rows:
        print(f"{name:42s} {value:10.3f}")
    write_csv(options.csv, ("cells", "what", "value"), [(len(specs), *row) for row in rows])


class _Watch:
    """Seconds of parts, by the clock and of CPU, as rows; and their sums."""

    def __init__(self, rows: list[tuple[str, float]]):
        self._rows, self.wall, self.cpu = rows, 0.0, 0.0
        self.start()

    def start(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def note(self, part: str) -> None:
        """A part ends here, and the next one begins."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        self._rows += [(f"{part}, s", wall), (f"{part}, s of CPU", cpu)]
        self.wall, self.cpu = self.wall + wall, self.cpu + cpu
        self.start()


def _claims(folder: Path, run_ids: list[str]) -> list[tuple[str, float]]:
    """Milliseconds of a claim, of the first and of the last thousand of all."""
    times = []
    for run_id in run_ids:
        started = time.perf_counter()
        acquire(folder, run_id)
        times.append(1000 * (time.perf_counter() - started))
    few = min(1000, len(times) // 2)
    return [
        ("claim, the first ones, ms", sum(times[:few]) / max(1, few)),
        ("claim, the last ones, ms", sum(times[-few:]) / max(1, few)),
    ]
