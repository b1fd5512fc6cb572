"""How many worker processes suit this machine, and what each of them gets."""

import os
import re
from itertools import takewhile
from pathlib import Path

DEVICES = Path("/dev")
_GPU = re.compile(r"\d+|(GPU|MIG)-\S+")
BYTES_PER_WORKER = 3 << 30  # libraries, a small base model, activations


def resources(workers: int | str, cells: int) -> tuple[int, int, list[str]]:
    """Processes, threads of each, and the GPUs to share out; never more processes than cells.

    On CPUs "auto" is a process per core: measured on 2 cores, two processes of one thread train 1.3 times as
    many steps of the default model as one process of two.
    """
    cores, mine = _cores(), gpus()
    wanted = (len(mine) or min(cores, _room())) if workers == "auto" else int(workers)
    size = max(1, min(wanted, cells))
    return size, max(1, cores // size), mine


def _cores() -> int:
    """The cores that are ours: what Slurm gave where it did, else what the system lets us use."""
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if given.isdigit():
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _room() -> int:
    """How many worker processes the free memory holds."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 2
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return max(1, free // BYTES_PER_WORKER)


def gpus() -> list[str]:
    """The GPUs that this process may use, asked of the driver: importing torch would cost seconds.

    As CUDA_VISIBLE_DEVICES names them: by number, or where that variable does so by UUID (GPU-..., MIG-...).
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:  # CUDA, too, takes no notice of what follows a name that is none, such as -1
        return list(takewhile(_GPU.fullmatch, (part.strip() for part in visible.split(","))))
    numbers = (path.name.removeprefix("nvidia") for path in DEVICES.glob("nvidia[0-9]*"))
    return sorted(filter(str.isdigit, numbers), key=int)
