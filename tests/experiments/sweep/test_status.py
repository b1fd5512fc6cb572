"""A study on one machine, seen and ended from another terminal."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import data
from experiments.bench.fake import finish, specs_of
from experiments.console import commands
from experiments.record import planned
from experiments.sweep import engine
from experiments.sweep import study as study_of
from experiments.sweep.lease import acquire, holder, registered
from experiments.sweep.plan import Plan
from experiments.sweep.status import Progress, RunStatus, Snapshot, snapshot
from experiments.sweep.study import requested_specs, write_requested

HOME = Path(__file__).parents[3]


@pytest.fixture
def ask(shell):
    """`python -m experiments.sweep WORDS` in the study's folder: exit code and output."""

    def run(*words):
        done = subprocess.run(
            [sys.executable, "-m", "experiments.sweep", *words], cwd=shell.folder, timeout=120, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(HOME)},
        )  # fmt: skip
        return done.returncode, done.stdout

    return run


@pytest.mark.slow
def test_a_sweep_is_watched_and_cancelled_from_elsewhere(shell, ask):
    words = ("variant=lora", "r=2,3", "workers=1", "train.steps=3000")
    with shell.start(*words) as process:
        deadline = time.monotonic() + 120
        while "running, step" not in (said := ask("status", "runs/toy")[1]):
            assert process.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.2)
        assert f"by process {worker_in(said)} on " in said
        assert "queued, behind the runs under way" in said
        code, output = ask("cancel", "runs/toy")
        assert (code, f"Asked process {process.pid} to stop.") == (0, output.splitlines()[0])
        assert process.wait(60) == 143
    assert shell.records() == {}
    assert list((shell.folder / "runs/toy").glob("*/checkpoint/*"))
    assert ask("cancel", "runs/toy")[1].startswith("Nothing of runs/toy is queued or running")
    code, output = ask("watch", "runs/toy", "--every", "0.1")
    assert code == 1
    assert "2 unfinished" in output


def worker_in(said):
    """The number of the process that a line on a running run names."""
    return int(said.partition("by process ")[2].split()[0])


# --- a command before its first run, and runs before they begin

HOLDER = """
import signal, sys, time
from pathlib import Path
from experiments.sweep.lease import registered

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with registered(Path(sys.argv[1])):
    print("at it", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path("runs/default")


@pytest.fixture
def command_elsewhere(study):
    """A process of this machine that is at the study and has neither planned nor begun a run."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(study)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(HOME)},
    ) as process:  # fmt: skip
        process.stdout.readline()
        yield process
        process.kill()


def sweep(*words):
    return commands.run("experiments.sweep", "About.", words)


def test_a_command_that_checks_its_cells_is_seen_and_cancelled(study, command_elsewhere, capsys):
    assert sweep("status", str(study)) == 0
    said = capsys.readouterr().out
    assert f"at work: process {command_elsewhere.pid} on " in said and "no runs yet" in said
    assert snapshot(study).under_way(), "to watch is to wait for it"
    assert sweep("cancel", str(study)) == 0
    assert f"Asked process {command_elsewhere.pid} to stop." in capsys.readouterr().out
    assert command_elsewhere.wait(20) == 143


def test_a_command_that_was_killed_is_no_longer_at_it(study, command_elsewhere, capsys):
    command_elsewhere.kill()
    command_elsewhere.wait()
    assert sweep("status", str(study)) == 2
    assert "holds no run" in capsys.readouterr().err


def test_the_engine_is_at_the_study_from_before_it_plans_to_its_end(study, monkeypatch):
    seen = []
    monkeypatch.setattr(data, "fingerprint", lambda spec: seen.append(snapshot(study).commands) or "data")
    monkeypatch.setattr(
        engine, "_train", lambda *a, **how: seen.append(snapshot(study).commands) or engine.USAGE
    )
    assert engine.run(specs_of("variant=lora", "r=2")) == engine.USAGE
    assert [len(commands) for commands in seen] == [1, 1]
    assert f"process {os.getpid()} on" in seen[0][0]
    assert not study.exists(), "it was refused"


def test_cancel_leaves_alone_what_only_bears_the_number_of_a_process_here(study, monkeypatch, capsys):
    """Another container of the same host name, say, whose process numbers mean other processes."""
    killed = []
    monkeypatch.setattr("experiments.sweep.commands.cancel.SECONDS", 0.0)
    monkeypatch.setattr(os, "kill", lambda *a: killed.append(a))
    with registered(study):
        [path] = (study / ".claims").iterdir()
        path.write_text(json.dumps({**json.loads(path.read_text()), "machine": "another boot"}))
        assert holder(study / ".claims", path.name.rpartition(".")[0])["pid"] == os.getpid()
        assert sweep("cancel", str(study)) == 1
    assert killed == []
    assert "End that process there" in capsys.readouterr().out


def test_cancel_bears_with_a_process_that_is_gone_by_then(study, command_elsewhere, monkeypatch, capsys):
    kill = os.kill

    def late(process, number):
        kill(process, signal.SIGKILL)
        command_elsewhere.wait()
        kill(process, number)

    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", late)
        assert sweep("cancel", str(study)) == 0
    said = capsys.readouterr()
    assert "Asked process" not in said.out and "Traceback" not in said.err


@pytest.fixture
def cells(study):
    """Four cells of one command, of which the first has completed: specs and run_ids."""
    specs = specs_of("variant=lora,dora", "r=2", "seed=0,1", "train.epochs=2", "train.steps=null")
    names = [spec.run_id(data.fingerprint(spec)) for spec in specs]
    write_requested(study, tuple(zip(specs, names, strict=True)))
    finish(specs[0], study / names[0], adapter_bytes=10)
    return specs, names


def test_what_was_asked_for_can_be_begun_from_what_was_left(study, cells):
    specs, names = cells
    assert requested_specs(study, names) == dict(zip(names, specs, strict=True))
    assert requested_specs(study, names[2:3]) == {names[2]: specs[2]}
    assert planned(study).keys() == set(names)
    assert planned(study)[names[3]]["variant"] == "dora"


def kinds(study):
    return {run.run_id: run.kind for run in snapshot(study).runs}


def test_what_a_command_at_work_has_still_to_begin_is_queued(study, cells):
    specs, names = cells
    lists = list((study / ".planned").glob("*.json"))
    for path in lists:
        os.utime(path, (1, 1))  # requested long ago, and the command has ended
    assert kinds(study) == dict.fromkeys(names, "unfinished") | {names[0]: "completed"}
    with registered(study):
        write_requested(study, ((specs[1], names[1]), (specs[2], names[2])))
        assert [kinds(study)[name] for name in names] == ["completed", "queued", "queued", "unfinished"]
        write_requested(study, tuple(zip(specs, names, strict=True)))  # the first command, given again
        assert kinds(study)[names[3]] == "queued"
    assert kinds(study)[names[3]] == "unfinished"


@pytest.mark.parametrize(
    ("starts", "steps", "shown"),
    [
        ([], [], "by"),
        ([(-900, 0, 100)], [], "loading, by"),  # of an earlier attempt
        ([(60, 0, 100)], [], "step 0 of 100 (training), by"),
        ([(60, 0, 100)], [10, 20], "step 20 of 100 (training, 4 min left), by"),  # 20 steps took a minute
        ([(-900, 0, 100), (60, 40, 100)], [10, 20, 40, 60], "step 60 of 100 (training, 2 min left), by"),
        ([(-900, 0, 100), (60, 40, 100)], [10, 20, 40], "step 40 of 100 (training), by"),
        ([(60, 0, 20)], [10, 20], "step 20 of 20 (evaluating), by"),
        ([(60, 0, 100), (90, "validates after step 20")], [10, 20], "step 20 of 100 (evaluating), by"),
        ([(60, 0, 100), (90, "validates after step 20")], [20, 30],
         "step 30 of 100 (training, 2 min left), by"),
        ([(60, 0, 20), (90, "tests")], [20], "step 20 of 20 (evaluating), by"),
        ([(60, 0, 20), (90, "writes diagnostics")], [20], "step 20 of 20 (diagnostics), by"),
    ],
    ids=[
        "no log", "loading", "first step", "training", "resumed", "resumed just now", "evaluating",
        "validating", "validated", "testing", "diagnostics",
    ],
)  # fmt: skip
def test_a_run_under_way_says_its_phase_and_the_time_left(study, starts, steps, shown):
    folder = study / "lora-r2-s0"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text("{}")
    with acquire(study / ".claims", folder.name):
        since = int(holder(study / ".claims", folder.name)["since"])
        with (folder / "log.txt").open("w") as log:
            for at, *what in starts:
                when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since + at))
                text = what[0] if len(what) == 1 else "starts at step {} of {}".format(*what)
                log.write(f"{when} {text}\n")
        (folder / "history.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in steps))
        os.utime(folder / "history.jsonl", (since + 120, since + 120))
        [run] = snapshot(study).runs
    assert str(run).startswith(f"running, {shown} process {os.getpid()} on ")


def test_the_time_left_of_a_study_is_that_of_its_pace():
    training = lambda left: Progress(10, 100, "training", left)  # noqa: E731
    run = lambda kind, **more: RunStatus("r", kind, **more)  # noqa: E731
    left = lambda *runs: Snapshot(list(runs), [], [], False).left()  # noqa: E731
    first, second = run("running", progress=training(60.0)), run("running", progress=training(20.0))
    assert left(first, second) == 60.0
    ended = [run("completed", seconds=seconds) for seconds in (90.0, 100.0, 900.0)]
    queued = [run("queued")] * 3
    assert left(first, second, *ended, *queued) == (60 + 20 + 3 * 100) / 2
    assert left(first, run("running", progress=training(None)), *ended) == (60 + 100) / 2
    assert left(first, *queued) is None and left(*queued) is None and left(*ended) is None


def test_a_record_that_was_edited_is_damaged_and_not_a_result(study, cells, capsys):
    _, names = cells
    path = study / names[0] / "record.json"
    path.write_text(path.read_text().replace('"test/accuracy": 0.5', '"test/accuracy": 0.9'))
    assert kinds(study)[names[0]] == "damaged"
    assert sweep("status", str(study)) == 0
    assert f"{names[0]}  damaged, its record was changed after the run" in capsys.readouterr().out


WATCHED = """
import json, sys, time
from pathlib import Path
from experiments.sweep.lease import acquire, registered
study = Path(sys.argv[1])
with registered(study), acquire(study / ".claims", "lora-r2-s0"):
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() + 1))
    (study / "lora-r2-s0" / "log.txt").write_text(f"{when} starts at step 0 of 100\\n")
    (study / "lora-r2-s0" / "history.jsonl").write_text('{"step": 40}\\n')
    print("at it", flush=True)
    sys.stdin.readline()
"""


def watched(study, *, terminal):
    """What `watch` shows of a study with a run under way that is then given up, and its exit code."""
    folder = study / "lora-r2-s0"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text("{}")
    environment = {**os.environ, "PYTHONPATH": str(HOME), "TERM": "xterm", "COLUMNS": "90", "LINES": "20"}
    words = [sys.executable, "-m", "experiments.sweep", "watch", str(study), "--every", "0.1"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen([sys.executable, "-c", WATCHED, str(study)], **pipes) as runner:
        runner.stdout.readline()
        reading, writing = pty.openpty() if terminal else os.pipe()
        with subprocess.Popen(words, stdout=writing, stderr=subprocess.STDOUT, env=environment) as watch:
            os.close(writing)
            shown = b""
            while b"1 running" not in shown:
                shown += os.read(reading, 4096)
            runner.stdin.write("\n")
            runner.stdin.flush()
            with contextlib.suppress(OSError):  # a terminal that nobody writes to any more
                while part := os.read(reading, 4096):
                    shown += part
            os.close(reading)
            return shown.decode(), watch.wait(60)


def test_watch_draws_bars_in_place_on_a_terminal(study):
    shown, code = watched(study, terminal=True)
    assert "lora-r2-s0" in shown and "step 40 of 100 (training" in shown and "\u2501" in shown
    assert "\x1b[1A\x1b[2K" in shown.replace("\r", "")  # up and over: drawn in place
    assert "1 unfinished" in shown and code == 1


def test_watch_writes_plain_lines_elsewhere(study):
    shown, code = watched(study, terminal=False)
    assert "\x1b" not in shown and "\u2501" not in shown and code == 1
    assert re.match(r"\d\d:\d\d:\d\d 1 running", shown) and "1 unfinished" in shown


def test_retry_begins_runs_that_never_began(study, cells, monkeypatch, capsys):
    specs, names = cells
    ran = []
    monkeypatch.setattr(engine, "run", lambda specs, **how: ran.append((specs, how["again"])) or 0)
    assert sweep("retry", str(study)) == 0
    assert ran.pop() == (sorted(specs[1:], key=lambda s: names[specs.index(s)]), False)
    assert sweep("retry", str(study), names[2]) == 0
    assert ran.pop() == ([specs[2]], True)
    assert sweep("retry", str(study), names[2][:-1] + "_") == 2
    assert names[2] in capsys.readouterr().err
    assert ran == []


def test_retry_of_a_run_whose_spec_is_torn_takes_it_from_what_was_asked(study, cells, monkeypatch, capsys):
    specs, names = cells
    path = study / names[0] / "spec.json"
    for torn in (path.read_text()[:200], "[]", "{}"):
        path.write_text(torn)
        assert study_of.specs_in(study, names) == specs
    for list_ in (study / ".planned").glob("*.specs.jsonl"):
        list_.unlink()
    assert sweep("retry", str(study), names[0]) == 2
    assert "give the command that requested it again" in capsys.readouterr().err


def test_records_that_were_set_aside_are_never_overwritten(study, cells):
    """Somebody deleted the first of two."""
    specs, names = cells
    todo = Plan(((specs[0], names[0]),), (), 0, ())
    for number in (1, 2, 3):
        path = study / names[0] / "record.json"
        path.write_text(str(number))
        engine.set_aside(study, todo)
        assert not path.exists()
        if number == 2:
            (study / names[0] / "record.1.json").unlink()
    contents = {path.name: path.read_text() for path in (study / names[0]).glob("record.*.json")}
    assert contents == {"record.1.json": "3", "record.2.json": "2"}


def test_retry_of_a_name_without_its_spec_says_what_to_do(study, cells, capsys):
    _, names = cells
    [path] = (study / ".planned").glob("*.jsonl")
    path.write_text(path.read_text()[:300])
    assert sweep("retry", str(study), names[2]) == 2
    assert "give the command that requested it again" in capsys.readouterr().err


@pytest.mark.parametrize("refused", [True, False])
def test_a_retry_that_is_refused_leaves_the_records_where_they_are(study, cells, monkeypatch, refused):
    specs, names = cells
    record = study / names[0] / "record.json"
    assert record.exists()
    pool = contextlib.nullcontext()
    pool.size, pool.stop = 1, lambda: None
    monkeypatch.setattr(engine, "Pool", lambda *arguments, **how: pool)
    monkeypatch.setattr(engine, "refused", lambda *arguments, **how: refused)
    monkeypatch.setattr(engine, "_collect", lambda *arguments: 0)
    monkeypatch.setattr(engine, "plan", lambda *arguments, **how: Plan(((specs[0], names[0]),), (), 0, ()))
    code = engine.run([specs[0]], root=study.parent, at_end="nothing", again=True)
    assert code == (2 if refused else 0) and record.exists() == refused
