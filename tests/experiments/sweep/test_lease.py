"""Claims: exactly one holder at a time, through the folder alone, whatever dies."""

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.sweep.lease import acquire, holder, is_held, is_here, leases, registered


def test_a_cell_that_is_held_is_not_given_again(tmp_path):
    with acquire(tmp_path, "cell"):
        assert acquire(tmp_path, "cell") is None
        assert holder(tmp_path, "cell")["pid"] == os.getpid()


def test_a_cell_given_back_can_be_taken_again(tmp_path):
    with acquire(tmp_path, "cell"):
        pass
    again = acquire(tmp_path, "cell")
    assert again.generation == 1


def test_a_dead_process_of_this_host_loses_its_claim_at_once(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from experiments.sweep.lease import acquire;"
        f"acquire(Path({str(tmp_path)!r}), 'cell'); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        assert acquire(tmp_path, "cell") is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert acquire(tmp_path, "cell").generation == 1


def test_a_silent_holder_of_another_host_is_replaced_and_stands_down(tmp_path):
    slow = acquire(tmp_path, "cell")
    content = json.loads(slow.path.read_text())
    slow.path.write_text(json.dumps({**content, "host": "elsewhere"}))
    assert acquire(tmp_path, "cell", stale_seconds=30) is None
    os.utime(slow.path, (time.time() - 40, time.time() - 40))
    taken = acquire(tmp_path, "cell", stale_seconds=30)
    assert taken.generation == 1
    assert taken.valid()
    assert not slow.valid()
    with taken:
        pass
    assert not slow.valid(), "given back, the cell must not fall to a holder that was thought dead"


def test_the_heartbeat_keeps_a_claim_young(tmp_path):
    with acquire(tmp_path, "cell", beat_seconds=0.05) as held:
        os.utime(held.path, (time.time() - 500, time.time() - 500))
        time.sleep(0.3)
        assert time.time() - held.path.stat().st_mtime < 100


def _take(folder, run_id, start, won):
    start.wait()
    if acquire(folder, run_id) is not None:
        won.put(os.getpid())
        time.sleep(1)


@pytest.mark.parametrize("run_id", ["a", "b"])
def test_of_many_at_once_exactly_one_wins(tmp_path, run_id):
    fork = multiprocessing.get_context("spawn")
    start, won = fork.Event(), fork.Queue()
    processes = [fork.Process(target=_take, args=(tmp_path, run_id, start, won)) for _ in range(6)]
    for process in processes:
        process.start()
    time.sleep(1.5)
    start.set()
    for process in processes:
        process.join()
    assert won.qsize() == 1


WORKER = """
import sys, time
from pathlib import Path
from experiments.sweep.lease import acquire
folder = Path(sys.argv[1])
done = folder / "done"
for cell in sys.argv[2:]:
    while not (done / cell).exists():
        held = acquire(folder / "claims", cell)
        if held is None:
            time.sleep(0.01)
            continue
        with held:
            if (done / cell).exists():
                break
            time.sleep(0.02)
            with open(folder / "completions", "a") as file:
                file.write(cell + chr(10))
            (done / cell).touch()
            held.remove()
"""


def test_with_random_kills_every_cell_is_completed(tmp_path):
    """Killed between completion and mark, a cell may be completed again.

    It is never lost and never held by two.
    """
    (tmp_path / "done").mkdir()
    cells = [f"cell-{i}" for i in range(30)]
    rng = random.Random(0)
    start = lambda: subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), *rng.sample(cells, 30)])  # noqa: E731
    processes = [start() for _ in range(3)]
    for _ in range(6):
        time.sleep(0.25)
        victim = rng.randrange(3)
        processes[victim].kill()
        processes[victim].wait()
        processes[victim] = start()
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert sorted(p.name for p in (tmp_path / "done").iterdir()) == sorted(cells)
    completions = (tmp_path / "completions").read_text().split()
    assert set(completions) == set(cells)
    assert len(completions) <= len(cells) + 6


def test_looking_needs_no_room(tmp_path, monkeypatch):
    """A full disk, or a folder that may only be read: whether somebody holds a cell can still be told."""
    held = acquire(tmp_path, "cell")
    held.path.write_text(json.dumps({**json.loads(held.path.read_text()), "host": "elsewhere"}))

    def refuse(self, *a, **k):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    assert is_held(tmp_path, "cell")
    os.utime(held.path, (time.time() - 100, time.time() - 100))
    assert not is_held(tmp_path, "cell")


@pytest.mark.parametrize("differs", [{"host": "elsewhere"}, {"machine": "another boot"}, {"started": 1}])
def test_a_process_of_this_machine_is_told_from_others_with_its_number(tmp_path, differs):
    acquire(tmp_path, "cell")
    mine = holder(tmp_path, "cell")
    assert is_here(mine)
    assert not is_here(mine | differs)


def test_a_full_disk_leaves_no_files_of_leases_behind(tmp_path, monkeypatch):
    """The file is made, and then takes no content."""
    real = Path.write_text

    def full(path, text, *rest, **how):
        real(path, text[:0])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="the disk is full"):
        acquire(tmp_path, "cell")
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_of_leases_goes_with_the_next_command(tmp_path):
    folder = leases(tmp_path)
    folder.mkdir()
    for name, age in [(".0123456789abcdef", 5000), (".fedcba9876543210", 5), (".engine-1.0", 5000)]:
        (folder / name).write_text("")
        os.utime(folder / name, (time.time() - age,) * 2)
    with registered(tmp_path):
        pass
    assert sorted(path.name for path in folder.iterdir()) == [".engine-1.0", ".fedcba9876543210"]


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"token": "x"}', "[" * 9999 + "]" * 9999])
def test_a_file_that_says_nothing_is_no_lease_that_is_held(tmp_path, content):
    (tmp_path / "cell.0").write_text(content)
    assert not is_held(tmp_path, "cell") and holder(tmp_path, "cell") is None
    assert acquire(tmp_path, "cell").generation == 1
