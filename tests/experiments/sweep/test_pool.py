"""The pool with workers that pretend: what it does about slow, dying, leaving and busy ones."""

import json
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.config.settings import Terms
from experiments.sweep.pool import PlannedPack, PlannedRun, Pool

WORKER = """
import json, os, signal, sys, time
from pathlib import Path

stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
say = lambda event, **facts: print(json.dumps({"event": event, **facts}), flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if "check" in order:
        tries = Path(order["check"])
        tried = len(tries.read_text()) if tries.exists() else 0
        tries.write_text("x" * (tried + 1))
        if tried < order["kills"]:
            os.kill(os.getpid(), order["signal"])
            time.sleep(60)
        say("checked", problems=[], notes=[])
        continue
    if len(order["members"]) > 1:  # dies as long as a run that kills is in it
        names, memory = [run["run_id"] for run in order["pack"]], Path(order["root"])
        with (memory / "packs").open("a") as file:
            file.write(json.dumps([names, order["members"]]) + "\\n")
        for name in names:
            if name.startswith("good"):
                say("finished", run_id=name, status="completed", metrics={})
            elif name.startswith("once") and (memory / name).exists():
                say("finished", run_id=name, status="completed", metrics={})
            else:
                (memory / name).touch()
                if name.startswith("starves"):
                    (memory / "count").write_text(str(int((memory / "count").read_text()) + 1))
                os.kill(os.getpid(), signal.SIGKILL)
        continue
    order |= order["pack"][0]
    run_id, memory = order["run_id"], Path(order["root"])
    behaviour = run_id.split("-")[0]
    tried = len(list(memory.glob(f"{run_id}.*")))
    (memory / f"{run_id}.{tried}").write_text(json.dumps(order))
    if behaviour == "crashes":
        os._exit(9)
    if behaviour in ("starves", "shot"):
        if behaviour == "starves" and order["kills"] < 2:
            (memory / "count").write_text(str(int((memory / "count").read_text()) + 1))
        if order["kills"] < 2:
            os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "hangs":
        while True:
            time.sleep(0.05)
    if behaviour == "paused":
        say("step", run_id=run_id, step=1, loss=0.5)
        os.kill(os.getpid(), signal.SIGSTOP)
    if behaviour in ("slow", "paused"):
        while not stop:
            time.sleep(0.01)
    if behaviour == "leaves" and tried == 0:
        stop.append(1)
    if behaviour == "naps" and tried == 0:
        time.sleep(1)
    if behaviour == "naps" and tried == 0 or behaviour == "busy" and tried < 2:
        say("busy", run_id=run_id)
    elif stop:
        say("interrupted", run_id=run_id)
    else:
        say("step", run_id=run_id, step=1, loss=0.5)
        say("finished", run_id=run_id, status="completed", metrics={})
    if stop:
        break
"""


@pytest.fixture
def pool_of(tmp_path, monkeypatch):
    """`pool_of(size)`: a pool of pretenders, and the folder in which they note their orders."""
    monkeypatch.setattr("experiments.sweep.pool.BUSY_SECONDS", 0.05)
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    memory = tmp_path / "memory"
    memory.mkdir()
    told = []

    def made(size, grace=0.3, kills=lambda: None):
        pool = Pool(
            size, threads=1, gpus=[], logs=tmp_path / "logs", on_event=told.append,
            worker=(sys.executable, str(script)), grace=grace, kills=kills,
        )  # fmt: skip
        return pool, memory, told

    return made


def cells(*run_ids, seen=None):
    return [
        PlannedRun(run_id, SimpleNamespace(as_record=lambda: {"study": "toy"}), seen) for run_id in run_ids
    ]


def outcomes(pool, memory, *run_ids, **terms):
    with pool:
        found = list(pool.run(cells(*run_ids), root=memory, terms=Terms(**terms)))
    assert len({o.run.run_id for o in found}) == len(found), "a cell ended twice"
    return {o.run.run_id: o.event["event"] for o in found}


def test_every_cell_ends_once_and_a_crash_costs_its_own_alone(pool_of):
    pool, memory, told = pool_of(2)
    names = [f"good-{i}" for i in range(7)] + ["crashes-1"] + [f"good-{i}" for i in range(7, 12)]
    found = outcomes(pool, memory, *names)
    assert found.pop("crashes-1") == "died"
    assert Counter(found.values()) == {"finished": 12}
    assert sum(event["event"] == "step" for event in told) == 12


def of_packs(pool, memory, *run_ids):
    """How the runs of one pack ended, and which were tried together: (runs, members of the pack)."""
    with pool:
        found = list(pool.run([PlannedPack.of(*cells(*run_ids))], root=memory, terms=Terms()))
    tried = [json.loads(line) for line in (memory / "packs").read_text().splitlines()]
    return {o.run.run_id: o.event["event"] for o in found}, tried


def test_a_pack_whose_worker_is_killed_goes_on_as_it_is(pool_of):
    pool, memory, told = pool_of(1)
    names = ["good-1", "once-1", "good-2"]
    found, tried = of_packs(pool, memory, *names)
    assert found == dict.fromkeys(names, "finished")
    assert tried == [[names, names], [["once-1", "good-2"], names]], "with the members of its state"
    assert "they go on from their last state" in next(e["text"] for e in told if e["event"] == "note")


def test_a_pack_that_kills_again_is_halved_down_to_the_run_that_does(pool_of):
    pool, memory, told = pool_of(1)
    names = ["kills-1", "good-1", "good-2", "good-3"]
    found, tried = of_packs(pool, memory, *names)
    assert found.pop("kills-1") == "finished", "alone it does nothing here"
    assert found == dict.fromkeys(names[1:], "finished")
    assert [runs for runs, _ in tried] == [names, names, names[:2], names[:2], names[2:]]
    assert sum("smaller packs" in e.get("text", "") for e in told) == 2


def test_a_pack_for_which_memory_runs_out_is_halved_at_once(pool_of, tmp_path):
    count = tmp_path / "memory" / "count"
    pool, memory, _ = pool_of(1, kills=lambda: int(count.read_text()) if count.exists() else 0)
    count.write_text("0")
    names = ["good-1", "good-2", "starves-1", "good-3"]
    found, tried = of_packs(pool, memory, *names)
    assert tried == [[names, names]], "those that are left train alone"
    assert found.pop("starves-1") == "died" and found == dict.fromkeys(found, "finished") and len(found) == 3


def test_a_run_that_takes_too_long_is_stopped_and_killed_if_it_does_not_stop(pool_of):
    """Two workers that keep talking beside it must not hide the slow one."""
    pool, memory, _ = pool_of(2)
    found = outcomes(pool, memory, "slow-1", "hangs-1", *(f"good-{i}" for i in range(5)), time_limit=0.01)
    assert {name: event for name, event in found.items() if not name.startswith("good")} == {
        "slow-1": "late",
        "hangs-1": "late",
    }
    assert list(found.values()).count("finished") == 5


def test_a_run_that_another_process_holds_is_asked_for_until_it_has_ended(pool_of):
    pool, memory, told = pool_of(1)
    assert outcomes(pool, memory, "busy-1", "good-1") == {"busy-1": "finished", "good-1": "finished"}
    assert len(list(memory.glob("busy-1.*"))) == 3
    assert {"event": "waiting", "run_id": "busy-1"} in told


def test_a_worker_that_died_with_nothing_to_do_is_replaced_before_it_gets_a_run(pool_of):
    """It was first in the row, and the run that another process held came back after its death."""
    pool, memory, _ = pool_of(2)
    ended = []
    with pool:
        idle = pool._workers[0]
        for outcome in pool.run(cells("good-1", "naps-1"), root=memory, terms=Terms()):
            ended.append((outcome.run.run_id, outcome.event["event"]))
            idle.process.kill()
    assert ended == [("good-1", "finished"), ("naps-1", "finished")]
    assert pool._workers[0] is not idle


def test_a_worker_that_somebody_told_to_leave_does_not_take_its_run_with_it(pool_of):
    pool, memory, _ = pool_of(1)
    assert set(outcomes(pool, memory, "leaves-1", "good-1", "good-2").values()) == {"finished"}


@pytest.mark.parametrize("behaviour", ["slow", "hangs"])
def test_stopped_once_or_twice_what_was_under_way_is_interrupted_and_nothing_new_begins(pool_of, behaviour):
    pool, memory, _ = pool_of(1, grace=5)
    found = []
    with pool:
        times = 2 if behaviour == "hangs" else 1

        def stop():
            while not list(memory.glob(f"{behaviour}-1.*")):
                time.sleep(0.01)
            for _ in range(times):
                pool.stop()
                time.sleep(0.1)

        thread = threading.Thread(target=stop)
        thread.start()
        for outcome in pool.run(cells(f"{behaviour}-1", "good-1"), root=memory, terms=Terms()):
            found.append((outcome.run.run_id, outcome.event["event"]))
        thread.join()
    assert found == [(f"{behaviour}-1", "interrupted")]
    assert not list(memory.glob("good-1.*"))


def test_a_kill_by_the_kernel_is_told_from_another_and_its_cell_goes_to_a_new_worker(pool_of, tmp_path):
    """`starves` is killed twice with the kernel's count rising, `shot` once without."""
    count = tmp_path / "memory" / "count"
    pool, memory, _ = pool_of(1, kills=lambda: int(count.read_text()))
    count.write_text("5")
    deaths = []
    with pool:
        for outcome in pool.run(cells("starves-1", "shot-1", "good-1"), root=memory, terms=Terms()):
            deaths.append((outcome.run.run_id, outcome.run.kills, outcome.event.get("oom")))
            if outcome.event.get("oom"):
                pool.with_less(outcome.run)
    assert deaths == [
        ("starves-1", 0, True), ("starves-1", 1, True), ("starves-1", 2, None), ("shot-1", 0, False),
        ("good-1", 0, None),
    ]  # fmt: skip
    orders = [json.loads(path.read_text()) for path in sorted(memory.glob("starves-1.*"))]
    assert [order["kills"] for order in orders] == [0, 1, 2]


def test_an_order_carries_what_the_command_said(pool_of):
    pool, memory, _ = pool_of(1)
    with pool:
        list(pool.run(cells("good-1", seen=17), root=memory, terms=Terms(checkpoint_steps=50)))
    order = json.loads((memory / "good-1.0").read_text())
    assert order["seen"] == 17
    assert order["checkpoint"] == {"seconds": 60.0, "steps": 50}


def test_no_worker_outlives_its_pool(pool_of):
    pool, memory, _ = pool_of(2)
    with pool:
        list(pool.run(cells("good-1", "good-2", "good-3"), root=memory, terms=Terms()))
        processes = [worker.process for worker in pool._workers]
    assert all(process.returncode is not None for process in processes)
    assert signal.SIGKILL not in [-process.returncode for process in processes]


def stopped_at_once(pool, memory, name):
    """Run it and ask it to stop as soon as it has begun; how it ended, and after how many seconds."""

    def stop():
        while not list(memory.glob(f"{name}.*")):
            time.sleep(0.01)
        time.sleep(0.3)
        pool.stop()

    began = time.monotonic()
    with pool:
        thread = threading.Thread(target=stop)
        thread.start()
        found = [o.event["event"] for o in pool.run(cells(name), root=memory, terms=Terms())]
        thread.join()
    return found, time.monotonic() - began


def test_a_worker_that_somebody_paused_is_woken_to_save_its_state(pool_of):
    pool, memory, _ = pool_of(1, grace=50)
    found, seconds = stopped_at_once(pool, memory, "paused-1")
    assert found == ["interrupted"] and seconds < 40
    assert pool._workers[0].process.returncode == 0


def test_a_worker_that_does_not_stop_is_killed_when_the_grace_period_is_over(pool_of):
    """Asked once: a second request is a person's, and may never come."""
    pool, memory, _ = pool_of(1, grace=1)
    found, _ = stopped_at_once(pool, memory, "hangs-1")
    assert found == ["interrupted"]
    assert pool._workers[0].process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("kills", "number", "event"),
    [(1, signal.SIGKILL, "checked"), (1, signal.SIGSEGV, "checked"), (2, signal.SIGKILL, "died")],
)
def test_a_worker_killed_during_the_check_is_replaced_once(pool_of, tmp_path, kills, number, event):
    pool, memory, _ = pool_of(2)
    order = {"check": str(tmp_path / "tries"), "kills": kills, "signal": number}
    with pool:
        assert pool.check(order)["event"] == event
        if event == "checked":
            found = list(pool.run(cells("good-1", "good-2"), root=memory, terms=Terms()))
            assert [o.event["event"] for o in found] == ["finished"] * 2
    assert len((tmp_path / "tries").read_text()) == 2


def test_a_kill_for_want_of_memory_during_the_check_is_not_tried_again(pool_of, tmp_path):
    pool, _, _ = pool_of(1, kills=lambda: int((tmp_path / "tries").exists()))
    order = {"check": str(tmp_path / "tries"), "kills": 9, "signal": signal.SIGKILL}
    with pool:
        assert pool.check(order) == {"event": "died", "code": -signal.SIGKILL, "oom": True}
    assert (tmp_path / "tries").read_text() == "x"


@pytest.mark.parametrize(("given", "seen"), [("3", "3"), ("5,2", "5,2"), ("", "1"), ("no", "1")])
def test_threads_that_the_user_fixed_are_left_to_the_worker(pool_of, monkeypatch, given, seen):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    pool, memory, _ = pool_of(1)
    with pool:
        process = pool._workers[0].process
        list(pool.run(cells("good-1"), root=memory, terms=Terms()))
        environ = Path(f"/proc/{process.pid}/environ").read_text()
    order = json.loads((memory / "good-1.0").read_text())
    assert order["threads"] == {"3": 3, "5,2": 5}.get(given)
    found = dict(item.split("=", 1) for item in environ.split("\0") if "=" in item)
    assert found["OMP_NUM_THREADS"] == seen
    assert found["MKL_NUM_THREADS"] == ("7" if order["threads"] else "1")
