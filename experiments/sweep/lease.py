"""Who may run a cell: one holder at a time, through nothing but the shared folder.

A claim is a file `<run_id>.<generation>`, made by linking a finished temporary file to that name, which
succeeds for exactly one process, on NFS too. The holder touches it every few seconds. When the touches stop,
whoever comes first makes the next generation and so takes over; a generation is never given out twice, so no
two can take over from each other. A holder that was only slow sees the newer generation and stands down.
Each claim bears a token of its own, so that nobody takes another's claim of the same generation for theirs.
Finished cells are known by their record, not by claims.

Giving a cell back sets the file's time to 0, which needs no space: it works on a full disk.

Ages are read off the file server's clock alone (a file just touched against the claim), so hosts may disagree
about the time. Only in a folder that takes no file, where nothing can be claimed either, the host's is taken.
"""

import contextlib
import functools
import json
import os
import secrets
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from experiments.files import explained

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0


@dataclass
class Claim:
    """A cell that this process holds.

    Use it as a context: it beats while open, and gives the cell back at the end.
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
        """The file that stands for this claim."""
        return self.folder / f"{self.run_id}.{self.generation}"

    def held(self) -> bool:
        """Whether the claim is still ours: nobody took over while we were slow."""
        content = _content(self.path)
        if content is None or content.get("token") != self.token:
            return False
        return not (self.folder / f"{self.run_id}.{self.generation + 1}").exists()

    def __enter__(self) -> "Claim":
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self.held():  # marked, not removed: a slow earlier holder must never find itself the newest again
            with contextlib.suppress(OSError):  # else it grows stale
                os.utime(self.path, (0, 0))

    def remove(self) -> None:
        """Forget all generations of the cell.

        Only once its record is written, which is what others look at first.
        """
        for generation in _generations(self.folder, self.run_id):
            (self.folder / f"{self.run_id}.{generation}").unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(self.beat_seconds):
            # A file server may be away for a moment; the age tells if it is longer.
            with contextlib.suppress(OSError):
                os.utime(self.path)


def claim(
    folder: Path,
    run_id: str,
    *,
    stale_seconds: float = STALE_SECONDS,
    beat_seconds: float = HEARTBEAT_SECONDS,
) -> Claim | None:
    """The claim on a cell, or None when somebody alive holds it.

    The caller checks for a record again once it has it.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    generations = _generations(folder, run_id)
    if generations and _alive(folder / f"{run_id}.{generations[-1]}", stale_seconds):
        return None
    generation = generations[-1] + 1 if generations else 0
    wanted = Claim(folder, run_id, generation, beat_seconds)
    return wanted if _create(wanted.path, wanted.token) else None


def holder(folder: Path, run_id: str) -> dict | None:
    """Who holds a cell (host, pid, since), whether alive or not; None when nobody does.

    `released` is true once it was given back.
    """
    generations = _generations(folder, run_id)
    path = folder / f"{run_id}.{generations[-1]}" if generations else None
    content = _content(path) if path else None
    return {**content, "released": _released(path)} if content and path else None


def is_held(folder: Path, run_id: str, *, stale_seconds: float = STALE_SECONDS) -> bool:
    """Whether somebody alive holds a cell."""
    generations = _generations(folder, run_id)
    return bool(generations) and _alive(folder / f"{run_id}.{generations[-1]}", stale_seconds)


def is_here(held: dict) -> bool:
    """Whether a holder, as `holder` tells it, is a process of this machine that still exists."""
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
        temporary.write_text(json.dumps(me))
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
    return True


def _generations(folder: Path, run_id: str) -> list[int]:
    """The generations of a claim, oldest first.

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
    """Whether the holder gave the cell back."""
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
    """The file server's time; this host's where the folder takes no file, because only looking must work."""
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

    None if there is none (so a reused pid is not taken for it), or if it has ended and nobody asked how.
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
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
