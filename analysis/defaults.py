"""python -m analysis.defaults runs/default_lr: a learning rate for each variant, from validation losses.

One rule serves every rank and task: its numbers are those of the lowest mean regret over all ranks and tasks
of the studies, as analysis.stats.best_rate says. Regret is how much higher the loss is at the rule's rate
than at the best one, by a parabola through the losses. For each variant and each form of the rule the first
table has the numbers, c of each task fitted alone, and the mean and the largest regret. The second has the
best rate and the regret of c / sqrt(s r) at each task and rank, also of the studies behind --unseen, which no
fit sees, against the best rate tried and by the parabola, with standard errors over seeds (jackknife).
--rates measures rates of one's own there. No test metric is read.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.runs import identity
from analysis.stats.best_rate import FORMS, Fit, Points, fit, parabola, regret, smooth_regret
from experiments.errors import UserError, report_errors
from experiments.protocol import COMMON
from experiments.record import no_runs, records

HEAD = ("variant", "form", "lr", "c of each task alone", "regret %", "largest")
_BELOW = {"1": "", "s r": " / (s r)", "sqrt(s r)": " / sqrt(s r)", "s": " / s"}
REGRETS = ("variant", "rate", "task", "r", "best at s r = 16", "lr", "regret %", "by a parabola %")
FITTED, GIVEN = "fitted", "given"  # by c / sqrt(s r), by --rates


def points(found: Iterable[Mapping[str, Any]]) -> dict[str, Points]:
    """The points of each variant with a scale: the mean loss over its seeds at each rate, rank and task.

    Variants that differ in the scale alone (lora, rslora) also come together: at one alpha, s r takes several
    values there only. A run that is not completed, or has no finite loss on validation, makes its point
    infinite.
    """
    same_but_scale: dict[str, set[str]] = defaultdict(set)
    seeds: dict[str, dict[tuple[Any, ...], list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in found:
        spec = record["spec"]
        scale = identity.scale(spec)
        if scale is None:
            continue
        loss = record.get("metrics", {}).get("validation/loss")
        lost = record["status"] != "completed" or loss is None or not np.isfinite(loss)
        axes = {**spec["variant_axes"], "scaling": None}
        part = identity.digest(axes, spec["variant_options"], spec["targets"])
        same_but_scale[part].add(spec["variant"])
        at = (spec["lr"], identity.first_rank(spec), scale, _task(spec))
        seeds[spec["variant"]][at].append(np.inf if lost else loss)
    for names in (sorted(names) for names in same_but_scale.values() if len(names) > 1):
        together = seeds[" + ".join(names)]
        for name in names:
            for at, losses in seeds[name].items():
                together[at].extend(losses)
    out = {}
    for variant, by_point in sorted(seeds.items()):
        columns = [*zip(*by_point, strict=True), [np.mean(losses) for losses in by_point.values()]]
        out[variant] = Points(*map(np.array, columns))
    return out


def _task(spec: Mapping[str, Any]) -> str:
    return f"{identity.dataset(spec)} {spec['model']} {spec['train'].get('steps')} steps"


@dataclass(frozen=True)
class Cost:
    """The regret of a rule at one place: task, rank at the start, scale."""

    place: tuple[str, int, float]
    best: float  # by a parabola, as the rate at s r = `COMMON` of c / sqrt(s r); nan without a minimum
    rate: float  # the rule's
    chord: float  # regret, see `analysis.stats.best_rate.regret`
    parabola: float  # and `smooth_regret`


def regrets(tried: Points, fitted: Fit) -> list[Cost]:
    """The regret of a rule at each place, in their order."""
    rates, group, out = fitted.rates(tried.scale, tried.rank), tried.group, []
    for number in range(group.max() + 1):
        own = tried.where(group == number)
        at = float(rates[group == number][0])
        place = str(own.task[0]), int(own.rank[0]), float(own.scale[0])
        best = parabola(own)[1] * np.sqrt(place[1] * place[2] / COMMON)
        out.append(Cost(place, best, at, regret(own.rate, own.loss, at), smooth_regret(own, at)))
    return sorted(out, key=lambda cost: cost.place)


def fits(tried: Points, forms: Iterable[str] = FORMS) -> list[Fit]:
    """Forms fitted to the points; none where that is impossible."""
    try:
        return [fit(tried, form) for form in forms]
    except ValueError:
        return []


def fitted_rows(tried: Mapping[str, Points]) -> Iterator[tuple[str, ...]]:
    """A row per variant and form: see `HEAD`."""
    for variant, all_points in tried.items():
        found = fits(all_points)
        if not found:
            yield variant, "none: no best rate between others", *[""] * (len(HEAD) - 2)
        for one in found:
            costs = [100 * cost.parabola for cost in regrets(all_points, one)]
            alone = (
                f"{task} {each.numbers['c']:.3g}{_edge(each)}"
                for task in np.unique(all_points.task)
                for each in fits(all_points.of(task), [one.form])
            )
            yield (
                variant,
                one.form,
                _rule(one) + _edge(one),
                "; ".join(alone),
                f"{np.nanmean(costs):.2f}",
                f"{np.nanmax(costs):.2f}",
            )


def regret_rows(
    tried: Mapping[str, Points],
    shown: Sequence[Mapping[str, Any]],
    given: Mapping[str, float] | None = None,
) -> Iterator[tuple[str, ...]]:
    """A row per variant, rate, task and rank of the records shown: see `REGRETS`.

    `given` are rates at s r = `COMMON` to be measured too, by variant.
    """
    seeds: dict[str, set[int]] = defaultdict(set)
    for record in shown:
        seeds[_task(record["spec"])].add(record["spec"]["seed"])
    without = {
        seed: points(record for record in shown if record["spec"]["seed"] != seed)
        for seed in sorted(set().union(*seeds.values()))
    }
    for variant, new in points(shown).items():
        rules = [(FITTED, rule) for rule in fits(tried[variant], ["root"])] if variant in tried else []
        if given and variant in given:
            numbers = {"c": given[variant] * np.sqrt(COMMON)}
            rules.append((GIVEN, Fit("root", numbers)))
        for name, rule in rules:
            others = [
                (seed, cost)
                for seed, part in without.items()
                if variant in part
                for cost in regrets(part[variant], rule)
            ]
            for cost in regrets(new, rule):
                task, rank, _ = cost.place
                left = [o for seed, o in others if o.place == cost.place and seed in seeds[task]]
                chord = 100 * cost.chord, [100 * other.chord for other in left]
                smooth = 100 * cost.parabola, [100 * other.parabola for other in left]
                yield (
                    *(variant, name, task, str(rank)),
                    _with_error("{:.2g}", cost.best, [other.best for other in left]),
                    f"{cost.rate:.3g}",
                    _with_error("{:.2f}", *chord),
                    _with_error("{:.2f}", *smooth),
                )


def _with_error(form: str, value: float, left: Sequence[float]) -> str:
    """A value with its standard error, if it has values without each of the seeds."""
    if len(left) < 2 or not np.isfinite(left).all():
        return form.format(value)
    error = np.sqrt((len(left) - 1) * np.var(left))
    return f"{form.format(value)} ± {form.format(error)}"


def _edge(found: Fit) -> str:
    return " (edge)" if found.edge else ""


def _rule(found: Fit) -> str:
    """The rule as an expression."""
    parts = [f"{found.numbers[name]:.3g}{_BELOW[below]}" for name, below in FORMS[found.form].items()]
    return f"min({', '.join(parts)})" if len(parts) > 1 else parts[0]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows as a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _show(options: argparse.Namespace) -> None:
    for study in (*options.study, *(options.unseen or ())):
        if not study.is_dir():
            raise no_runs(study)
    tried = points(record for study in options.study for record in records(study))
    if not tried:
        raise UserError(
            f"no runs with a scale in {', '.join(map(str, options.study))}. Make them first: "
            "python run.py +experiment=default_lr"
        )
    print(table(HEAD, fitted_rows(tried)))
    shown = [record for study in [*options.study, *options.unseen] for record in records(study)]
    print("\n" + table(REGRETS, regret_rows(tried, shown, dict(options.rates or []))))


def _rate(text: str) -> tuple[str, float]:
    name, _, lr = text.partition("=")
    return name, float(lr)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.defaults", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("study", type=Path, nargs="+", help="studies that sweep lr, e.g. runs/default_lr")
    parser.add_argument("--unseen", type=Path, nargs="+", default=[], help="studies that no fit sees")
    parser.add_argument(
        "--rates", type=_rate, nargs="+", metavar="VARIANT=LR", help="measured too: rates at s r = 16"
    )
    options = parser.parse_args(arguments)
    return report_errors(lambda: _show(options))


if __name__ == "__main__":
    sys.exit(main())
