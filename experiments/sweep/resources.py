"""What a machine gives to worker processes: cores, memory, GPUs, an environment; and whom its kernel killed.

SIGKILL does not say who sent it, but the kernel counts its own kills, in files that anybody may read: per
cgroup (`oom_kill` of memory.events in v2, of memory.oom_control in v1), charged to the cgroup that the
victim's memory belongs to, and for the whole machine in /proc/vmstat. Where the count rose while a process
was at work that has been killed, it was the kernel.
"""

import contextlib
import hashlib
import os
import platform
import re
from collections.abc import Callable, Hashable, Mapping
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

from experiments import cache
from experiments.errors import UserError
from experiments.files import read_json, write_json

Key = TypeVar("Key")

HOME = Path(__file__).resolve().parents[2]
DEVICES = Path("/dev")
PROC = Path("/proc")
_GPU = re.compile(r"\d+|(GPU|MIG)-\S+")
BYTES_PER_WORKER = 3 << 30  # libraries, a small base model, activations
_V2 = ("memory.events.local", "memory.events")
_V1 = ("memory.oom_control",)


def resources(workers: int | str, runs: int, *, each: int = 1) -> tuple[int, int, list[str]]:
    """Processes, threads of each, and the GPUs to share out; never more processes than runs.

    With `each` above 1 a run takes so many processes: GPUs are shared out by as many, "0,1" and "2,3".

    On CPUs "auto" is a process per core: measured on 2 cores, two processes of one thread train 1.3 times as
    many steps of the default model as one process of two.
    """
    cores, devices = _cores(), gpus()
    if each > 1:
        there = len(devices) or cores
        if there < each:
            what = f"GPU{'s' * (there > 1)}" if devices else f"core{'s' * (there > 1)} and no GPU"
            raise UserError(
                f"fsdp={each} trains a run on {each} GPUs (or cores, where there is none), and this "
                f"machine has {there} {what}: give fsdp={there} or less."
            )
        devices = [",".join(devices[i : i + each]) for i in range(0, len(devices) - each + 1, each)]
        cores //= each
    wanted = (len(devices) or max(1, min(cores, _room() // each))) if workers == "auto" else int(workers)
    size = max(1, min(wanted, runs))
    return size, fixed_threads() or max(1, cores // size), devices


def place() -> tuple[object, ...]:
    """What a measurement of speed holds for: this machine, what of it is ours, and torch."""
    return (platform.node(), _cores(), gpus(), os.environ.get("OMP_NUM_THREADS"), version("torch"))


class Measured(Generic[Key]):
    """Seconds that were measured on this machine, by shape, in a file of the cache.

    Losing them costs a measurement: a damaged file holds nothing, and a cache that takes none is passed over.

    Args:
        file: Its name.
        key: Makes what the seconds of a shape are named by from text.
    """

    def __init__(self, file: str, key: Callable[[str], Key]) -> None:
        self._file, self._key = cache.folder() / file, key

    def of(self, shape: Hashable) -> dict[Key, float]:
        """The seconds of a shape, empty where it has not been measured."""
        try:
            return {self._key(name): float(s) for name, s in self._all().get(_digest(shape), {}).items()}
        except (ValueError, TypeError, AttributeError):
            return {}

    def keep(self, shape: Hashable, seconds: Mapping[Key, float]) -> None:
        """File them."""
        with contextlib.suppress(UserError, OSError):
            write_json(self._file, {**self._all(), _digest(shape): seconds})

    def _all(self) -> dict[str, Any]:
        try:
            return dict(read_json(self._file))
        except (OSError, ValueError, TypeError):
            return {}


def _digest(shape: Hashable) -> str:
    return hashlib.sha256(repr((place(), shape)).encode()).hexdigest()[:16]


def fixed_threads() -> int | None:
    """How many threads of a process the user fixed by OMP_NUM_THREADS, None if none."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # OpenMP takes a list, one per level
    return int(given) if given.isdigit() and int(given) > 0 else None


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
    """The GPUs that this process may use, as the driver names them: importing torch would cost seconds.

    As CUDA_VISIBLE_DEVICES names them: by number, or where that variable does so by UUID (GPU-..., MIG-...).
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:  # CUDA, too, takes no notice of what follows a name that is none, such as -1
        return list(takewhile(_GPU.fullmatch, (part.strip() for part in visible.split(","))))
    numbers = (path.name.removeprefix("nvidia") for path in DEVICES.glob("nvidia[0-9]*"))
    return sorted(filter(str.isdigit, numbers), key=int)


def environment(**more: str) -> dict[str, str]:
    """This process's environment, in which nothing need be installed; with some variables more."""
    path = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), **more}


def oom_kills(proc: Path = PROC) -> int | None:
    """How often the kernel has killed where the memory of this process and its children is counted.

    None where nothing tells (another system than Linux, or older than 4.13).
    """
    for path in (*_of_cgroup(proc), proc / "vmstat"):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


class OomWatch:
    """Tells the kernel's kills among the deaths of this process's children.

    A count that rises by one explains one death: a second process killed meanwhile was killed by somebody.
    """

    def __init__(self, count: Callable[[], int | None]):
        self.count = count
        self._explained = 0  # the count up to which kills have been attributed

    def explains(self, since: int | None) -> bool | None:
        """Whether the kernel killed a process that has died of SIGKILL; None if nothing tells.

        Args:
            since: The count when its work began.
        """
        now = self.count()
        if now is None or since is None:
            return None
        known = max(since, self._explained)
        if now <= known:
            return False
        self._explained = known + 1
        return True


def _of_cgroup(proc: Path) -> list[Path]:
    """Where the count of this process's cgroup may be: in the nearest folder, upwards, that counts memory."""
    try:
        groups = [line.split(":", 2) for line in (proc / "self/cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (proc / "self/mountinfo").read_text().splitlines()]
    except OSError:
        return []
    first = next((path for _, names, path in groups if "memory" in names.split(",")), None)
    unified = next((path for number, _, path in groups if number == "0"), None)
    path, kind, names = (first, "cgroup", _V1) if first is not None else (unified, "cgroup2", _V2)
    for mount in mounts:
        system, *_, options = mount[mount.index("-") + 1 :]
        if path is None or system != kind or (kind == "cgroup" and "memory" not in options.split(",")):
            continue
        top, root = Path(mount[4]), mount[3]
        below = PurePosixPath(os.path.relpath(path, root))
        folder = top if ".." in below.parts else top / below
        above = [folder, *folder.parents]
        return [place / name for place in above[: above.index(top) + 1] for name in names]
    return []
