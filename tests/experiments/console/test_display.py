"""The display: few plain lines where nobody watches, bars that fit where somebody does, then a table."""

import io
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from experiments.console import display as module
from experiments.console.display import Display
from experiments.console.summary import results_table

ROOT = Path(module.__file__).resolve().parents[2]


def plain():
    """A display into a text, as in a log file."""
    return Display(console=Console(file=io.StringIO(), width=80))


def bars(width=100, height=20):
    """A display that draws, on a console of a size."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height)
    return Display(console=console, live=True)


def text(display):
    return display.console.file.getvalue()


def drawn(display):
    """The lines of one refresh, without colours."""
    size = display.console.size
    console = Console(file=io.StringIO(), width=size.width, height=size.height)
    console.print(display)
    return console.file.getvalue().splitlines()


def record(variant="lora", r=8, seed=0, *, status="completed", test=0.6, spec=()):
    """A record as the table reads it."""
    found = {
        "spec": {"variant": variant, "r": r, "targets": "qv", "model": "minilm", "lr": 0.005, "seed": seed},
        "status": status,
    }
    found["spec"].update(spec)
    if status == "completed":
        found["primary"] = {"metric": "accuracy", "goal": "max"}
        found["metrics"] = {"validation/accuracy": test + 0.01, "test/accuracy": test, "test/loss": 1.2}
        found["cost"] = {"step_ms": 212.34}
    return found


def table(records, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(results_table(records, width=width))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


# --- plain lines


def test_a_log_gets_a_line_at_each_quarter_and_not_at_each_step():
    with plain() as display:
        display.sweep(1)
        display.run_started("lora-r8", 150)
        for step in range(1, 151):
            display.step("lora-r8", step, 2.0)
        display.run_finished("lora-r8", "completed", "test/accuracy 0.695")
    lines = text(display).splitlines()
    assert lines[:2] == ["1 run", "[1/1] lora-r8 started, 150 steps"]
    assert [line.split(",")[0] for line in lines[2:5]] == [
        f"  lora-r8 {percent}% loss 2.000" for percent in (25, 50, 75)
    ]
    assert lines[5] == "[1/1] lora-r8 completed in 0:00  test/accuracy 0.695" and len(lines) == 6


def test_a_log_is_never_wrapped_nor_coloured():
    with plain() as display:
        display.note("x" * 300)
        display.run_started("a", 1)
        display.run_finished("a", "failed", "y" * 300)
    assert "\x1b" not in text(display) and "x" * 300 in text(display) and "y" * 300 in text(display)


def test_skipped_runs_count_as_done():
    with plain() as display:
        display.sweep(6, skipped=4)
        display.run_started("a", 10)
        display.run_finished("a", "completed")
        display.run_started("b", 10)
    assert text(display).splitlines() == [
        "6 runs, 4 already finished",
        "[5/6] a started, 10 steps",
        "[5/6] a completed in 0:00",
        "[6/6] b started, 10 steps",
    ]


def test_a_resumed_run_is_not_taken_for_a_fast_one(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with plain() as display:
        display.sweep(1)
        display.run_started("a", 100, done=70)
        now[0] += 10
        display.step("a", 75, 1.0)
    assert "a started, 100 steps, 70 done before" in text(display)
    assert "a 75% loss 1.000, 0:50 left" in text(display)


def test_steps_of_unknown_runs_and_runs_without_steps_do_no_harm():
    with plain() as display:
        display.step("nobody", 3, 1.0)
        display.run_started("a", 0)
        display.step("a", 0, float("nan"))
        display.run_finished("a", "completed")
        display.run_finished("b", "failed", "never started")
    assert "b failed  never started" in text(display)


# --- bars


def test_bars_show_the_running_runs_and_the_sweep():
    with bars() as display:
        display.sweep(8, skipped=2)
        display.run_started("lora-r8", 150)
        display.run_started("dora-r8", 150)
        display.step("lora-r8", 75, 1.25)
        lines = drawn(display)
    assert len(lines) == 3
    assert re.search(r"^lora-r8 .* 75/150 loss 1\.250  50% 0:00$", lines[0])
    assert re.search(r"^dora-r8 .* 0/150   0% --:--$", lines[1])
    assert re.search(r"^━+╸ +2/8 runs, 0:0\d left$", lines[2])


def test_finished_runs_leave_the_bars_and_failures_are_counted():
    with bars() as display:
        display.sweep(3)
        for run_id, status in (("a", "failed"), ("b", "diverged")):
            display.run_started(run_id, 10)
            display.run_finished(run_id, status)
        lines = drawn(display)
    assert len(lines) == 1 and "2/3 runs, 1 failed" in lines[0]


@pytest.mark.parametrize("width", [30, 50, 69, 70, 200])
def test_bars_fit_the_width(width):
    with bars(width) as display:
        display.sweep(1000, skipped=10)
        display.run_started("adalora-r16-all-scipy_topics-s12-1a2b3c4d", 150)
        display.step("adalora-r16-all-scipy_topics-s12-1a2b3c4d", 100, 1.5)
        lines = drawn(display)
    assert len(lines) == 2 and all(len(line) <= width for line in lines) and "67%" in lines[0]


def test_a_total_too_long_for_its_line_is_wrapped_and_not_cut():
    console = Console(file=io.StringIO(), width=50, height=20)
    words = "128 completed, 3 failed, 2 diverged, 300 not begun; about 3 h 20 min left"
    console.print(module.bars([], (0.4, words), room=5))
    assert set(words.split()) <= set(console.file.getvalue().split())


def test_more_runs_than_lines_are_counted_and_not_drawn():
    with bars(height=10) as display:
        display.sweep(32)
        for k in range(32):
            display.run_started(f"run-{k}", 10)
        lines = drawn(display)
    assert len(lines) == 8 and lines[6] == "and 26 more running"


SCRIPT = (
    "from experiments.console.display import Display\n"
    "with Display() as d:\n"
    "    d.sweep(1); d.run_started('a', 4); d.step('a', 2, 1.0); d.run_finished('a', 'failed', 'why')\n"
)


def on_a_terminal(**environment):
    """What a process writes that has a terminal for its output."""
    here, there = pty.openpty()
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, stdout=there, env={**kept, "TERM": "xterm", **environment}
    )
    os.close(there)
    written = b""
    try:
        while part := os.read(here, 4096):
            written += part
    except OSError:  # the other end is closed
        pass
    os.close(here)
    assert process.wait() == 0
    return written.decode()


def test_a_terminal_gets_bars_and_its_cursor_back():
    written = on_a_terminal()
    assert "━" in written and "\x1b[31mfailed" in written
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_no_color_is_respected():
    written = on_a_terminal(NO_COLOR="1")
    assert "━" in written and not re.search(r"\x1b\[3\d", written)


def test_a_dumb_terminal_gets_plain_lines():
    assert "\x1b[?25l" not in on_a_terminal(TERM="dumb")


# --- the table


def test_the_table_has_a_row_per_cell_with_its_seeds():
    records = [record(seed=0, test=0.60), record(seed=1, test=0.62), record("dora", 16)]
    lines = table(records)
    assert lines[0] == "accuracy"
    assert lines[2].split() == [
        "variant",
        "r",
        "targets",
        "seeds",
        "val",
        "test",
        "range",
        "ms/step",
        "status",
    ]
    assert lines[4].split() == ["dora", "16", "qv", "1", "0.610", "0.600", "212", "completed"]
    assert lines[5].split() == ["lora", "8", "qv", "2", "0.620", "0.610", "0.600-0.620", "212", "completed"]


def test_ranks_are_ordered_as_numbers():
    lines = table([record(r=r) for r in (16, 4, 8)])
    assert [line.split()[1] for line in lines[4:7]] == ["4", "8", "16"]


def test_a_diverged_or_failed_run_is_shown_and_not_averaged():
    lines = table([record(), record(seed=1, status="diverged"), record("dora", status="oom")])
    assert lines[4].split()[-1] == "oom" and "0.6" not in lines[4]
    assert lines[5].endswith("1 completed, 1 diverged") and " 0.600 " in lines[5]


def test_columns_that_differ_are_shown_and_others_are_not():
    lines = table([record(), record(spec={"model": "bert", "lr": 0.01})], width=100)
    assert lines[2].split()[:5] == ["variant", "r", "targets", "model", "lr"]
    assert {"bert", "0.01"} <= set(lines[4].split())


def test_baselines_without_a_rank_have_a_dash():
    lines = table([record("full", spec={"r": None, "targets": None}), record(spec={"targets": ["q", "v"]})])
    assert lines[4].split()[:3] == ["full", "-", "-"] and lines[5].split()[2] == "q,v"


@pytest.mark.parametrize("width", [44, 60, 80])
def test_the_table_fits_the_width_and_keeps_what_matters(width):
    lines = table([record("adalora", 16, seed, test=0.6 + seed / 100) for seed in range(3)], width=width)
    assert len(lines) == 6 and all(len(line) <= width for line in lines)
    assert {"adalora", "16", "0.610", "completed"} <= set(lines[4].split())


def test_no_records_make_an_empty_table():
    assert "".join(table([])).strip() in ("", "metric")


def test_the_results_end_with_the_reports_path_on_one_line():
    display = plain()
    display.results([record()], "runs/" + "long/" * 30 + "report.html")
    assert text(display).splitlines()[-1] == "Report: runs/" + "long/" * 30 + "report.html"


LOST = """
import sys
from experiments.console.display import Display

with Display() as display:
    display.sweep(total=3)
    for number in range(3):
        display.run_started(f"run-{number}", steps=4)
        display.run_finished(f"run-{number}", "completed", "accuracy 0.5\\x1b[2J")
print("all done", file=sys.stderr)
"""


@pytest.mark.parametrize("where", ["a closed pipe", "/dev/full"])
def test_runs_go_on_where_their_output_is_lost(where):
    home = Path(__file__).parents[3]
    if where == "/dev/full":
        if not os.path.exists(where):
            pytest.skip("needs /dev/full")
        out = os.open(where, os.O_WRONLY)
    else:
        reading, out = os.pipe()
        os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", LOST], cwd=home, stdout=out, stderr=subprocess.PIPE, text=True, check=True
        )
    finally:
        os.close(out)
    said, last = done.stderr.splitlines()
    assert said.startswith("The output cannot be written any more") and last == "all done"


def test_escape_sequences_of_runs_do_not_reach_the_terminal():
    home = Path(__file__).parents[3]
    command = [sys.executable, "-c", LOST]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout and "0.5\ufffd[2J" in done.stdout
