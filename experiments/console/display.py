"""What a person sees of a sweep: bars on a terminal, a few plain lines anywhere else, and a table at the end.

    on a terminal     one bar per running run, one for the sweep with the time left, refreshed twice a second
    elsewhere         a line when a run starts, at each quarter of it, and when it ends

NO_COLOR, TERM=dumb and the terminal's width are respected. Calls are cheap: `step` stores two numbers.
"""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.console.progress import Progress
from experiments.console.summary import COLOURS, results_table
from experiments.errors import output_lost, plural, printable, say

_NARROW = 70  # columns under which a bar row keeps only the name, the bar and the percentage


@dataclass
class _Run:
    """One run that is going on."""

    steps: int
    done: int  # steps that an earlier process did
    step: int
    begun: float
    loss: float | None = None

    @property
    def share(self) -> float:
        """How much of the run is done, from 0 to 1."""
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    @property
    def left(self) -> str:
        """The time left, at the pace of this process."""
        here = max(0, self.step - self.done)
        elapsed = time.monotonic() - self.begun
        return _duration(elapsed * (self.steps - self.step) / here if here else None)


class _Console(Console):
    """A console that says when nobody reads it, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        """A BrokenPipeError is being handled."""
        raise


class Display(Progress):
    """Shows a sweep while it runs. Use as a context manager; it leaves the terminal as it found it."""

    def __init__(self, *, console: Console | None = None, live: bool | None = None):
        """`live` None means bars where the console is a terminal that can draw them."""
        self.console = console or _Console(highlight=False, soft_wrap=False)
        capable = self.console.is_terminal and not self.console.is_dumb_terminal
        self._live_wanted = capable if live is None else live
        self._live: Live | None = None
        self._lock = threading.RLock()
        self._runs: dict[str, _Run] = {}
        self._total = self._skipped = self._ended = self._failed = 0
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        if self._live_wanted:
            self._live = Live(self, console=self.console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def sweep(self, total: int, skipped: int = 0) -> None:
        """Say how many runs the sweep has, `skipped` of them being finished already."""
        with self._lock:
            self._total, self._skipped, self._begun = total, skipped, time.monotonic()
        done = f", {skipped} already finished" if skipped else ""
        self.note(f"{plural(total, 'run')}{done}")

    def run_started(self, run_id: str, steps: int, done: int = 0) -> None:
        """A run begins; it has `steps` steps, the first `done` of them done before an interruption."""
        with self._lock:
            self._runs[run_id] = _Run(steps, done, step=done, begun=time.monotonic())
        if self._live is None:
            resumed = f", {done} done before" if done else ""
            self.note(f"{self._position()} {run_id} started, {plural(steps, 'step')}{resumed}")

    def step(self, run_id: str, step: int, loss: float | None = None) -> None:
        """A run has done its `step`-th step."""
        run = self._runs.get(run_id)
        if run is None:
            return
        before, run.step = run.step, step
        run.loss = loss if loss is not None else run.loss
        quarter = _quarter(step, run.steps)
        if self._live is None and quarter > _quarter(before, run.steps) and quarter < 4:
            self.note(f"  {run_id} {quarter * 25}%{_loss(run.loss)}, {run.left} left")

    def run_finished(self, run_id: str, status: str, words: str = "") -> None:
        """A run has ended with the record's status; `words` are its results in a line."""
        with self._lock:
            run = self._runs.pop(run_id, None)
            self._ended += 1
            self._failed += status in ("failed", "oom")
        took = f" in {_duration(time.monotonic() - run.begun)}" if run else ""
        colour = COLOURS.get(status, "red")
        line = Text.assemble(f"{self._position(0)} {run_id} ", (status, colour), f"{took}")
        self._print(line.append(f"  {printable(words)}" if words else ""))

    def note(self, text: str) -> None:
        """One line for the person, above the bars."""
        self._print(Text(printable(text)))

    def results(self, records: Iterable[Mapping[str, Any]], report: str | None = None) -> None:
        """The last thing a sweep shows: the table of its results, and where the report is."""
        self.close()
        found = list(records)
        if found:
            self._show(results_table(found, width=self.console.width))
        if report:
            self._show(Text(f"Report: {report}"), soft_wrap=True)  # a path is copied whole

    def _print(self, line: Text) -> None:
        """Wrap at words on a terminal; elsewhere a line is a line."""
        self._show(line, soft_wrap=not self.console.is_terminal)

    def _show(self, what: RenderableType, *, soft_wrap: bool | None = None) -> None:
        """Runs do not end because nobody reads what they show, or because a full disk does not take it."""
        try:
            self.console.print(what, soft_wrap=soft_wrap)
        except OSError as error:
            if not output_lost(error):
                raise
            self.console.quiet = True
            say(f"The output cannot be written any more ({error.strerror}). The runs go on.", error=True)

    def close(self) -> None:
        """Take the bars away. Further notes are plain lines."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __rich__(self) -> RenderableType:
        """The bars, drawn anew at each refresh."""
        with self._lock:
            runs = list(self._runs.items())
            ended = self._ended
        width = self.console.width
        rows = [(run_id, run.share, _run_words(run, width)) for run_id, run in runs]
        to_do = max(1, self._total - self._skipped)
        share = min(1.0, (ended + sum(run.share for _, run in runs)) / to_do)
        failed = f", {self._failed} failed" if self._failed else ""
        elapsed = time.monotonic() - self._begun
        time_left = _duration(elapsed * (1 - share) / share if share else None)
        left = f", {time_left} left" if width >= _NARROW else ""
        words = f"{ended + self._skipped}/{self._total} runs{failed}{left}"
        return bars(rows, (share, words), room=self.console.height - 4)

    def _position(self, ahead: int = 1) -> str:
        """Where in the sweep a run stands, e.g. "[3/6]"; `ahead` counts a run that has just started."""
        running = len(self._runs) if ahead else 0
        return f"[{self._skipped + self._ended + running}/{self._total}]"


def bars(
    rows: Sequence[tuple[str, float, str]], whole: tuple[float, str], *, room: int, below: Sequence[str] = ()
) -> Group:
    """A bar for each run, as many as there is room for, one for all of them, and lines below.

    Args:
        rows: Of each run its name, how much of it is done, from 0 to 1, and what to say of it.
        whole: The same of all, without a name.
        room: Rows at most; one at least is shown.
        below: Lines of text.
    """
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=3)
    grid.add_column(ratio=2, min_width=8)
    grid.add_column(no_wrap=True, justify="right")
    shown = rows[: max(1, room)]
    for name, share, words in shown:
        grid.add_row(Text(name), ProgressBar(total=1.0, completed=share), Text(words))
    total = Table.grid(padding=(0, 1), expand=True)
    total.add_column(ratio=1, width=8)
    total.add_column(justify="right")
    total.add_row(ProgressBar(total=1.0, completed=whole[0]), Text(whole[1], style="bold"))
    hidden = len(rows) - len(shown)
    more = [Text(f"and {hidden} more running", style="dim")] if hidden else []
    return Group(grid, *more, total, *(Text(line, style="dim") for line in below))


def _run_words(run: _Run, width: int) -> str:
    percent = f"{run.share:4.0%}"
    if width < _NARROW:
        return percent
    return f"{run.step}/{run.steps}{_loss(run.loss)} {percent} {run.left}"


def _quarter(step: int, steps: int) -> int:
    return 4 * step // steps if steps else 0


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "--:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _loss(loss: float | None) -> str:
    return "" if loss is None else f" loss {loss:.3f}"
