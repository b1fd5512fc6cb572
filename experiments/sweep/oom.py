"""Which of the processes that were killed the kernel ended because memory ran out.

SIGKILL does not say who sent it, but the kernel counts its own kills, in files that anybody may read: per
cgroup (`oom_kill` of memory.events in v2, of memory.oom_control in v1), charged to the cgroup that the
victim's memory belongs to, and for the whole machine in /proc/vmstat. Where the count rose while a process
was at work that has been killed, it was the kernel.
"""

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

PROC = Path("/proc")
_V2 = ("memory.events.local", "memory.events")
_V1 = ("memory.oom_control",)


def kills(proc: Path = PROC) -> int | None:
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


class Watch:
    """Tells the kernel's kills among the deaths of this process's children.

    A count that rises by one explains one death: a second process killed meanwhile was killed by somebody.
    """

    def __init__(self, count: Callable[[], int | None]):
        self.count = count
        self._explained = 0  # the count up to which kills have been told of their victims

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
