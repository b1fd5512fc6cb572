"""python -m analysis.defaults runs/default_lr: a learning rate for each variant, from validation losses.

One rule serves every rank and task: its numbers are fitted to the losses of all rates, ranks, seeds and tasks
of the studies at once, as analysis.stats.best_rate says. For each variant and each form of the rule this
prints the numbers, how far the losses are from the fit, c of each task fitted alone, and the regret: how much
higher the loss is at the rule's rate than at the best rate tried, in percent, over tasks and ranks. With
--unseen also the regret on runs that the fit does not see, beside that of a parabola through the losses, each
with its standard error over seeds (jackknife). --rates measures rates of one's own too. No test metric is
read.
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
from analysis.stats.best_rate import FORMS, Fit, Points, fit, regret, smooth_regret
from experiments.errors import UserError, report_errors
from experiments.protocol import COMMON
from experiments.record import no_runs, records

HEAD = ("variant", "form", "lr", "residual %", "c of each task alone", "regret %", "largest")
_BELOW = {"1": "", "s r": " / (s r)", "sqrt(s r)": " / sqrt(s r)", "s": " / s"}
UNSEEN = ("variant", "form", "task", "r", "lr", "regret %", "by a parabola %")
GIVEN = "given"  # the form of --rates


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
        out.append(Cost(place, at, regret(own.rate, own.loss, at), smooth_regret(own, at)))
    return sorted(out, key=lambda cost: cost.place)


def fits(tried: Points) -> list[Fit]:
    """Every form fitted to the points; none where that is impossible."""
    try:
        return [fit(tried, form) for form in FORMS]
    except ValueError:
        return []


def fitted_rows(tried: Mapping[str, Points]) -> Iterator[tuple[str, ...]]:
    """A row per variant and form: see `HEAD`."""
    for variant, all_points in tried.items():
        found = fits(all_points)
        if not found:
            yield variant, "none: no three rates near the best one", *[""] * (len(HEAD) - 2)
        for one in found:
            costs = [100 * cost.chord for cost in regrets(all_points, one)]
            alone = (
                f"{task} {each.numbers['c']:.3g}{_edge(each)}"
                for task in np.unique(all_points.task)
                for each in fits(all_points.of(task))
                if each.form == one.form
            )
            yield (
                variant,
                one.form,
                _rule(one) + _edge(one),
                f"{100 * np.sqrt(one.residual):.2f}",
                "; ".join(alone),
                f"{np.mean(costs):.2f}",
                f"{np.max(costs):.2f}",
            )


def unseen_rows(
    tried: Mapping[str, Points],
    unseen: Sequence[Mapping[str, Any]],
    given: Mapping[str, float] | None = None,
) -> Iterator[tuple[str, ...]]:
    """A row per variant, form, task and rank of the records that no fit saw: see `UNSEEN`.

    `given` are rates at s r = `COMMON` to be measured too, by variant.
    """
    seeds: dict[str, set[int]] = defaultdict(set)
    for record in unseen:
        seeds[_task(record["spec"])].add(record["spec"]["seed"])
    without = {
        seed: points(record for record in unseen if record["spec"]["seed"] != seed)
        for seed in sorted(set().union(*seeds.values()))
    }
    for variant, new in points(unseen).items():
        rules = [(found.form, found) for found in fits(tried[variant])] if variant in tried else []
        if given and variant in given:
            numbers = {"c": given[variant] * np.sqrt(COMMON)}
            rules.append((GIVEN, Fit("root", numbers, residual=np.nan, edge=False)))
        for form, rule in rules:
            others = [
                (seed, cost)
                for seed, part in without.items()
                if variant in part
                for cost in regrets(part[variant], rule)
            ]
            for cost in regrets(new, rule):
                task, rank, _ = cost.place
                left = [o for seed, o in others if o.place == cost.place and seed in seeds[task]]
                chord = _with_error(cost.chord, [other.chord for other in left])
                smooth = _with_error(cost.parabola, [other.parabola for other in left])
                yield variant, form, task, str(rank), f"{cost.rate:.3g}", chord, smooth


def _with_error(value: float, left: Sequence[float]) -> str:
    """A share in percent with its standard error, from the values that it has without each of the seeds."""
    if len(left) < 2:
        return f"{100 * value:.2f}"
    error = np.sqrt((len(left) - 1) * np.var(left))
    return f"{100 * value:.2f} ± {100 * error:.2f}"


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
    if options.unseen:
        unseen = [record for study in options.unseen for record in records(study)]
        print("\n" + table(UNSEEN, unseen_rows(tried, unseen, dict(options.rates or []))))


def _rate(text: str) -> tuple[str, float]:
    name, _, lr = text.partition("=")
    return name, float(lr)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.defaults", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("study", type=Path, nargs="+", help="studies that sweep lr, e.g. runs/default_lr")
    parser.add_argument("--unseen", type=Path, nargs="+", help="studies on which regret alone is measured")
    parser.add_argument(
        "--rates", type=_rate, nargs="+", metavar="VARIANT=LR", help="measured too: rates at s r = 16"
    )
    options = parser.parse_args(arguments)
    return report_errors(lambda: _show(options))


if __name__ == "__main__":
    sys.exit(main())
