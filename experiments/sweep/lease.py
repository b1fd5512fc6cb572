"""Leases: one process at a time works on a run, through nothing but the shared folder.

A lease is a file `<run_id>.<generation>`, made by linking a finished temporary file to that name, which
succeeds for exactly one process, on NFS too. The holder touches it every few seconds. When the touches stop,
whoever comes first makes the next generation and so takes over; a generation is never given out twice, so no
two can take over from each other. A holder that was only slow sees the newer generation and stands down.
Each lease bears a token of its own, so that nobody takes another's lease of the same generation for theirs.
Finished runs are known by their record, not by leases.

Giving a run back sets the file's time to 0, which needs no space: it works on a full disk.

Ages are read off the file server's clock alone (a file just touched against the lease), so hosts may disagree
about the time. Only in a folder that takes no file, where nothing can be leased either, the host's is taken.

Commands hold leases, too, each on a name of its own from before it plans to its end: so others see it before
its first run begins and between two runs. Killed, it is forgotten as any holder is.
"""

import contextlib
import functools
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.files import explained, read_json

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
_WRITTEN = {"token", "host", "pid", "started", "since"}
_OLD_SECONDS = 3600.0
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}")
_PREFIX = ".engine-"  # no run's name begins with a dot


@dataclass
class Lease:
    """A run that this process holds.

    Use it as a context: it beats while open, and gives the run back at the end.
    """

    folder: Path
    run_id: str
    generation: int
    beat_seconds: float = HEARTBEAT_SECONDS
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)

    @property
    def path(self) -> Path:
        """The file that stands for this lease."""
        return self.folder / f"{self.run_id}.{self.generation}"

    def valid(self) -> bool:
        """Whether the lease is still ours: nobody took over while we were slow."""
        content = _content(self.path)
        if content is None or content.get("token") != self.token:
            return False
        return not (self.folder / f"{self.run_id}.{self.generation + 1}").exists()

    def __enter__(self) -> "Lease":
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self.valid():  # marked, not removed: a slow earlier holder must never find itself the newest again
            with contextlib.suppress(OSError):  # else it grows stale
                os.utime(self.path, (0, 0))

    def remove(self) -> None:
        """Forget all generations of the run.

        Only once its record is written, which is what others look at first.
        """
        for generation in _generations(self.folder, self.run_id):
            (self.folder / f"{self.run_id}.{generation}").unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(self.beat_seconds):
            # A file server may be away for a moment; the age tells if it is longer.
            with contextlib.suppress(OSError):
                os.utime(self.path)


def leases(study: Path) -> Path:
    """The folder of a study's leases."""
    return study / ".claims"  # the name on the disk: processes of older versions look there, too


def acquire(
    folder: Path,
    run_id: str,
    *,
    stale_seconds: float = STALE_SECONDS,
    beat_seconds: float = HEARTBEAT_SECONDS,
) -> Lease | None:
    """A lease on a run, or None when somebody alive holds one.

    The caller checks for a record again once it has it.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    generations = _generations(folder, run_id)
    if generations and _alive(folder / f"{run_id}.{generations[-1]}", stale_seconds):
        return None
    generation = generations[-1] + 1 if generations else 0
    wanted = Lease(folder, run_id, generation, beat_seconds)
    return wanted if _create(wanted.path, wanted.token) else None


def holder(folder: Path, run_id: str) -> dict | None:
    """Who holds a run (host, pid, since), whether alive or not; None when nobody does.

    `released` is true once it was given back.
    """
    generations = _generations(folder, run_id)
    path = folder / f"{run_id}.{generations[-1]}" if generations else None
    content = _content(path) if path else None
    return {**content, "released": _released(path)} if content and path else None


def is_held(folder: Path, run_id: str, *, stale_seconds: float = STALE_SECONDS) -> bool:
    """Whether somebody alive holds a run."""
    generations = _generations(folder, run_id)
    return bool(generations) and _alive(folder / f"{run_id}.{generations[-1]}", stale_seconds)


@contextmanager
def registered(study: Path) -> Iterator[None]:
    """While open, others see that this process works on the study.

    What killed processes, or a full disk, left of leases that were never completed is removed on the way.
    """
    for path in leases(study).glob(".*"):
        if _TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime > _OLD_SECONDS:
            path.unlink(missing_ok=True)
    lease = acquire(leases(study), f"{_PREFIX}{secrets.token_hex(8)}")
    assert lease is not None, "a name that nobody had before"
    with lease:
        try:
            yield
        finally:
            lease.remove()


def running_commands(study: Path) -> list[dict[str, Any]]:
    """The commands that work on a study, as `holder` describes them: host, pid, since."""
    folder = leases(study)
    names = sorted({path.name.rpartition(".")[0] for path in folder.glob(f"{_PREFIX}*.*")})
    return [held for name in names if is_held(folder, name) and (held := holder(folder, name))]


def is_here(held: dict) -> bool:
    """Whether a holder, as `holder` describes it, is a process of this machine that still exists."""
    return _of_this_machine(held) and _process_start(held["pid"]) == held["started"]


def _of_this_machine(held: dict) -> bool:
    return (held["host"], held.get("machine")) == (socket.gethostname(), _machine())


def _create(path: Path, token: str) -> bool:
    """Make the file with its content in one step; False when another was first."""
    me = {
        "token": token,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _process_start(os.getpid()),
        "since": time.time(),
    }
    temporary = path.with_name(f".{secrets.token_hex(8)}")
    with explained(path):
        try:
            temporary.write_text(json.dumps(me))
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
    return True


def _generations(folder: Path, run_id: str) -> list[int]:
    """The generations of a lease, oldest first.

    Probed by name, so that the cost does not grow with the study.
    """
    found = []
    with contextlib.suppress(OSError):
        generation = 0
        while (folder / f"{run_id}.{generation}").exists():
            found.append(generation)
            generation += 1
    return found


def _alive(path: Path, stale_seconds: float) -> bool:
    """Whether the holder is at work: its process exists if it is of this host, and its heartbeat is young."""
    content = _content(path)
    if content is None or _released(path):
        return False
    if _of_this_machine(content) and not is_here(content):
        return False
    try:
        return _server_now(path.parent) - path.stat().st_mtime < stale_seconds
    except FileNotFoundError:
        return False


def _released(path: Path) -> bool:
    """Whether the holder gave the run back."""
    try:
        return path.stat().st_mtime == 0
    except FileNotFoundError:
        return True


@functools.cache
def _machine() -> str | None:
    """What tells apart two containers or boots of one host name, whose process numbers mean different things.

    None where the system does not tell.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _server_now(folder: Path) -> float:
    """The file server's time; this host's where the folder takes no file, because reading alone must work."""
    probe = folder / f".{secrets.token_hex(8)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _process_start(pid: int) -> int | None:
    """When a process of this host began, in clock ticks since boot.

    None if there is none (so a reused pid is not taken for it), or if it is a zombie.
    """
    try:
        state, *facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else int(facts[18])
    except OSError:
        if os.path.isdir("/proc/self"):
            return None
    try:  # no /proc: all that can be known is whether the process exists
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0
    return 0


def _content(path: Path) -> dict | None:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or not content.keys() >= _WRITTEN or type(content["pid"]) is not int:
        return None
    return content
