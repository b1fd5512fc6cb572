"""A forecast as tables for people: what is planned, what it costs, and what would make it unfair."""

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from experiments.console.summary import distinguishing, value_at
from experiments.errors import plural
from experiments.sizing.counts import effective_scale
from experiments.spec import RunSpec
from experiments.sweep.preview.fairness import Finding
from experiments.sweep.preview.forecast import Forecast, Row

MOST = 60  # cells with a line of their own; more are summed up by variant
_COLOURS = {"problem": "red", "warning": "yellow", "note": "cyan"}
_LEFT = ("phase", "variant", "targets", "model", "dataset")
_SHOWN = ("phase", "variant", "r", "matched", "targets", "model", "dataset", "lr", "alpha")
_MAY_GO = ("phase", "model", "dataset", "targets")  # columns that are left out where every line says the same


def page(
    found: Forecast, findings: Sequence[Finding], smallest: Sequence[str], notes: Sequence[str] = ()
) -> RenderableType:
    """The whole dry run."""
    many = len(found.rows) > MOST
    keys = distinguishing([row.spec.as_record() for row in found.rows], _SHOWN)
    lines = _by_variant(found.rows) if many else [_line(row, keys) for row in found.rows]
    parts: list[RenderableType] = [_table(lines)]
    if many:
        parts.append(
            Text(f"{len(found.rows):,} cells, summed up by variant; --csv FILE has a line for each.\n")
        )
    parts.append(_facts([*_totals(found), *(("", note) for note in notes)]))
    if smallest:
        parts.append(_titled("Smallest effect", smallest))
    if found.plan.duplicates:
        parts.append(_titled("Duplicates", found.plan.notes[:1]))
    parts += [_fairness(findings), Text("Nothing was started.")]
    return Group(*parts)


def _line(row: Row, keys: Sequence[str]) -> dict[str, str]:
    """The columns of a cell; `keys` are those that tell cells apart beside the usual ones."""
    spec, count = row.spec, row.count
    own = {key: value_at(spec.as_record(), key) for key in keys}
    return {
        "phase": spec.phase,
        "variant": spec.variant,
        "r": _rank(spec),
        "targets": spec.targets_text,
        "model": spec.model,
        "dataset": spec.dataset,
        "lr": f"{spec.lr:g}",
        **{key.rpartition(".")[2]: "-" if value is None else str(value) for key, value in own.items()},
        "s": _number(effective_scale(spec)),
        "runs": str(row.seeds),
        "done": str(row.done),
        "adapter": f"{count.adapter:,}" if count else "?",
        "head": f"{count.head:,}" if count else "?",
        "share": f"{count.share:.2%}" if count else "?",
        "time": duration(row.seconds),
        "memory": size(row.memory),
        "disk": size(row.disk),
    }


def _by_variant(rows: Sequence[Row]) -> list[dict[str, str]]:
    """One line per variant, with the range of what differs in it."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.spec.phase, row.spec.variant, row.spec.model, row.spec.dataset), []).append(
            row
        )
    lines = []
    for group in groups.values():
        counts = [row.count for row in group if row.count is not None]
        lines.append(
            {
                "phase": group[0].spec.phase,
                "variant": group[0].spec.variant,
                "r": _range((row.spec.r for row in group), "d"),
                "targets": ", ".join(sorted({row.spec.targets_text for row in group})),
                "model": group[0].spec.model,
                "dataset": group[0].spec.dataset,
                "lr": _range((row.spec.lr for row in group), "g"),
                "s": _range((effective_scale(row.spec) for row in group), ".3g"),
                "cells": f"{len(group):,}",
                "runs": f"{sum(row.seeds for row in group):,}",
                "done": f"{sum(row.done for row in group):,}",
                "adapter": _range((count.adapter for count in counts), ",d"),
                "head": _range((count.head for count in counts), ",d"),
                "time": duration(
                    _sum(row.missing * s if (s := row.seconds) is not None else None for row in group)
                ),
                "memory": size(max((row.memory or 0 for row in group), default=0) or None),
                "disk": size(sum(row.missing * row.disk for row in group)),
            }
        )
    return lines


def _table(lines: Sequence[Mapping[str, str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    same = {key for key in _MAY_GO if len({line[key] for line in lines}) == 1}
    columns = [key for key in lines[0] if key not in same]
    for key in columns:
        table.add_column(key, justify="left" if key in _LEFT else "right", overflow="fold")
    for line in lines:
        table.add_row(*(Text(line[key]) for key in columns))
    return table


def _totals(found: Forecast) -> list[tuple[str, str]]:
    todo, done = len(found.plan.todo), len(found.plan.done)
    spec = found.rows[0].spec
    places = "GPU" if found.gpus else "CPU"
    return [
        ("On", _places(found.rows)),
        (
            "Runs",
            f"{todo + done:,} in {len(found.rows):,} cells: {done:,} done already, {todo:,} to do "
            f"(study={spec.study})",
        ),
        (
            "Estimate",
            f"about {duration(found.seconds)} with {plural(found.workers, 'worker')} "
            f"({places}), {size(found.memory)} of memory, {size(found.disk)} on the disk",
        ),
        *(("", source) for source in found.sources),
    ]


def _places(rows: Sequence[Row]) -> str:
    models = dict.fromkeys(row.spec.model for row in rows)
    data = dict.fromkeys(row.spec.dataset for row in rows)
    targets = dict.fromkeys(row.spec.targets_text for row in rows if row.spec.targets is not None)
    return f"{', '.join(models)}; {', '.join(data)}" + (f"; targets {', '.join(targets)}" if targets else "")


def _facts(pairs: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, text in pairs:
        table.add_row(Text(name, style="bold"), Text(text))
    return table


def _titled(title: str, lines: Sequence[str]) -> RenderableType:
    text = Text("\n").join([Text(title, style="bold"), *(Text(f"  {line}") for line in lines)])
    return Padding(text, (1, 0, 0, 0))


def _fairness(findings: Sequence[Finding]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    for finding in findings:
        text = Text(f"{finding.what} ").append(f"{finding.why[0].upper()}{finding.why[1:]}. ", style="italic")
        table.add_row(Text(f"  {finding.level}", style=_COLOURS[finding.level]), text.append(finding.remedy))
    title = Text("Fairness", style="bold")
    body: RenderableType = (
        table if findings else Text("  Nothing that makes this comparison unfair was found.")
    )
    return Padding(Group(title, body), (1, 0, 1, 0))


def duration(seconds: float | None) -> str:
    """Seconds in words: 40 s, 12 min, 3.5 h, 2.1 d."""
    if seconds is None:
        return "?"
    for limit, unit, length in ((90, "s", 1), (5400, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / length:.{int(unit == 'h')}f} {unit}"
    return f"{seconds / 86400:.1f} d"


def size(count: int | None) -> str:
    """Bytes in words, powers of 1000."""
    if count is None:
        return "?"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _rank(spec: RunSpec) -> str:
    if spec.r is None:
        return "-"
    return f"{spec.r} (for {spec.matched})" if spec.matched is not None else str(spec.r)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _range(values: Iterable[float | int | None], form: str) -> str:
    known = sorted({value for value in values if value is not None})
    if not known:
        return "-"
    return format(known[0], form) if len(known) == 1 else f"{known[0]:{form}} to {known[-1]:{form}}"


def _sum(values: Iterable[float | None]) -> float | None:
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total
