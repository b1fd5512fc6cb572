"""python -m analysis.audit runs/STUDY: what a reviewer would ask, met or not, and what would meet it."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis import options, stats
from analysis.compare.verdicts import Verdicts, verdicts
from analysis.runs.cells import cells as cells_of
from analysis.runs.cells import missing_seeds
from analysis.runs.load import Study, read
from analysis.runs.rows import each
from experiments.errors import report_errors
from experiments.protocol import ADVISED_SEEDS, EQUAL_PARAMETERS
from experiments.record import verify

FAIR = "use hydra/sweeper=fair"


@dataclass(frozen=True)
class Item:
    """One line of the checklist; `remedy` says what would meet it where it is not met."""

    question: str
    met: bool
    finding: str
    remedy: str = ""


def audit(study: Study, cells: pd.DataFrame, found: Verdicts, *, files: bool = True) -> list[Item]:
    """The whole checklist; `files` also recomputes the checksums of every run folder."""
    checks: Sequence[Callable[..., Iterator[Item]]] = (_evidence, _tuning, _fairness, _losses, _origin)
    items = [item for check in checks for item in check(study, cells, found)]
    return items + (list(_files(study)) if files else [])


def _evidence(study: Study, cells: pd.DataFrame, found: Verdicts) -> Iterator[Item]:
    table = found.overall
    few = table[table["n_seeds"] < ADVISED_SEEDS]
    least = int(table["n_seeds"].min()) if len(table) else 0
    yield Item(
        f"Every comparison rests on {ADVISED_SEEDS} paired seeds or more",
        len(table) > 0 and few.empty,
        f"{len(few)} of {len(table)} have fewer, the least has {least}"
        if len(table)
        else "there is no comparison",
        f"run seed=0,1,2,3,4 for every cell; below {stats.FEWEST_SEEDS} there is no verdict at all",
    )
    judged = table[table["p_adjusted"].notna()]
    blind = int((judged["n_examples"] == 0).sum())
    yield Item(
        "Test examples count as noise, not only seeds",
        len(judged) > 0 and blind == 0,
        f"{blind} of {len(judged)} comparisons have no usable per-example scores",
        "keep predictions.parquet of every run, with a metric that is a mean over examples",
    )
    missing = judged["detectable_in_family"] > found.margin
    yield Item(
        "The study could have shown a difference as small as the margin",
        len(judged) > 0 and not missing.any(),
        f"{int(missing.sum())} of {len(judged)} comparisons could not show {found.margin:g} (power "
        f"{stats.POWER:g}, adjusted for their number)",
        _power_remedy(judged, found.margin),
    )
    names = table.groupby("variant")["dataset"].nunique()
    yield Item(
        "Each variant was compared on two datasets or more",
        len(names) > 0 and bool((names > 1).all()),
        f"{int((names < 2).sum())} of {len(names)} variants were compared on one dataset",
        "repeat the sweep with another dataset; what holds on one need not hold on the next",
    )


def _power_remedy(judged: pd.DataFrame, margin: float) -> str:
    sd = judged["sd_seeds"].max()
    seeds = stats.seeds_needed(margin, stats.Spread(float(sd))) if sd > 0 else None
    why = "by the noisiest comparison, if test examples were no limit"
    return f"{f'about {seeds}' if seeds else 'many more'} seeds ({why}), a larger test set, or a wider margin"


def _tuning(study: Study, cells: pd.DataFrame, found: Verdicts) -> Iterator[Item]:
    final = cells[cells["final"].astype(bool)]
    tried: dict[int, set[str]] = {}
    for row in each(final):
        tried.setdefault(found.budgets[row["cell_key"], row["stack"]].points, set()).add(str(row["series"]))
    points = sorted(set(tried) - {0})  # 0: nothing to tune
    told = "; ".join(f"{n} for {', '.join(sorted(tried[n]))}" for n in points)
    yield Item(
        "The learning rate of every variant was tuned, with the same number of points",
        len(points) == 1 and points[0] > 1,
        f"points per cell: {told or 'none'}",
        f"{FAIR}, which gives every cell equally many points and chooses on validation",
    )
    tuned = [budget for budget in found.budgets.values() if budget.tuned]
    edges = [budget for budget in tuned if budget.edges]
    yield Item(
        "No chosen value lies on the edge of its grid",
        bool(tuned) and not edges,
        f"{len(edges)} of {len(tuned)} chosen values lie on an edge"
        if tuned
        else "nothing was chosen from several values",
        "extend the grid where the edge was chosen, and give the other variants as many more points "
        "(hydra.sweeper.extensions)",
    )
    shared = sorted({seed for budget in tuned for seed in budget.shared})
    blind = sum(not budget.seeds for budget in tuned)
    yield Item(
        "Rates were chosen with other seeds than those that are compared",
        bool(tuned) and all(budget.apart for budget in tuned),
        f"seeds in both: {shared}" if shared else f"{blind} cells have no tuning runs" if tuned else "",
        f"{FAIR}, which confirms on seeds that tuning never saw",
    )
    runs = study.runs[study.runs["phase"] == "tune"]
    tested = int((runs["split"] == "test").sum())
    floor = set(study.runs.loc[study.runs["again"] > 0, "cell_key"])  # measures noise, chooses nothing
    results = cells[~cells["tuning"].astype(bool) & ~cells["final"].astype(bool) & (cells["n"] > 0)]
    more = len(set(results["cell_key"]) - floor)
    yield Item(
        "The test set was read for the chosen values alone",
        not tested and not more,
        f"{tested} tuning runs and {more} cells that were not chosen were tested",
        f"{FAIR}, which never tests a run that tunes",
    )


def _fairness(study: Study, cells: pd.DataFrame, found: Verdicts) -> Iterator[Item]:
    final = cells[cells["final"].astype(bool) & (cells["n"] > 0)]
    unmatched = []
    for _, group in final.groupby(["peer_key", "stack"], sort=False):
        of_baseline = group["series"] == found.baseline
        of_baseline = of_baseline if of_baseline.any() else group["variant"] == found.baseline
        plain = group.loc[of_baseline, "trainable_parameters"].dropna()
        for name, others in group[~of_baseline].groupby("series"):
            own = others["trainable_parameters"].dropna()
            if not any(abs(a - b) <= EQUAL_PARAMETERS * b for a in own for b in plain):
                unmatched.append(str(name))
    yield Item(
        "Each variant was also compared at an equal number of trainable parameters",
        len(final) > 0 and not unmatched,
        f"no cell within {EQUAL_PARAMETERS:.0%} of a baseline's: {', '.join(sorted(set(unmatched)))}"
        if unmatched
        else "",
        "match=parameters chooses ranks at which their numbers meet",
    )
    untuned = final[(final["rates"] == 1) & final["scale"].notna()]
    scales = untuned.groupby(["peer_key", "lr"])["scale"].agg(["min", "max"])
    differ = int((scales["max"] > 1.01 * scales["min"]).sum())
    yield Item(
        "No cells of different effective scale share an untuned learning rate",
        differ == 0,
        f"{differ} learning rates are shared by cells of different scale s",
        "tune the rate per cell, or tie alpha to the rank (alpha='${r}')",
    )


def _losses(study: Study, cells: pd.DataFrame, found: Verdicts) -> Iterator[Item]:
    bad = study.runs[study.runs["status"] != "completed"]
    yield Item(
        "No run failed, diverged, is unfinished or missing",
        bad.empty and not study.unfinished and not study.missing,
        f"{len(bad)} failed or diverged, {len(study.unfinished)} unfinished, {len(study.missing)} missing; "
        f"all are listed in the report",
        "give the command of the study again: it goes on from what is there; a diverged run is a result",
    )
    constant, runs = study.unlearned(cells[cells["final"].astype(bool)])
    yield Item(
        "No result is that of a run that gives one answer to all examples",
        constant == 0,
        f"{constant} of {runs} runs do",
        "train longer or at another learning rate; such a run says nothing of its variant",
    )
    missing = missing_seeds(cells) if len(cells) else []
    remedy = "run the same seeds for all cells, or the pairs shrink"
    yield Item(
        "Every cell has the seeds that the others have", not missing, f"{len(missing)} lack some", remedy
    )
    wrong = len(study.problems) + len(found.problems)
    finding = f"{wrong} were left out or corrected; the report names each"
    yield Item("Every record could be used as it is", not wrong, finding, "run those again")
    noted = sum(bool(record.get("deviations")) for record in study.records.values())
    yield Item(
        "No run deviates from what was asked",
        noted == 0,
        f"{noted} runs note deviations",
        "see the report's notes",
    )


def _origin(study: Study, cells: pd.DataFrame, found: Verdicts) -> Iterator[Item]:
    environments = [record.get("env") or {} for record in study.records.values()]
    yield Item(
        "All compared runs share code, versions, hardware and data",
        not found.differing and bool(environments),
        f"they differ in {', '.join(found.differing)}" if found.differing else "",
        "run the study again on one stack, or say --pool and why",
    )
    unknown = sum(not env.get("git_sha") and not env.get("code_sha256") for env in environments)
    dirty = sum(bool(env.get("dirty")) for env in environments)
    yield Item(
        "The code of every run is known and committed",
        bool(environments) and not unknown and not dirty,
        f"{unknown} runs do not name their code, {dirty} ran with uncommitted changes",
        "commit first, then run",
    )
    hashless = sum("test_sha256" not in (record.get("data") or {}) for record in study.records.values())
    yield Item(
        "The data of every run are identified by a hash",
        hashless == 0,
        f"{hashless} runs lack it",
        "run them again",
    )
    costs = ("trainable_parameters", "peak_bytes", "step_ms")
    lacking = sum(
        any(key not in (study.records[i].get("cost") or {}) for key in costs)
        for i in study.completed["run_id"]
    )
    yield Item(
        "Parameters, memory and step time are recorded",
        lacking == 0,
        f"{lacking} runs lack some",
        "run them again",
    )


def _files(study: Study) -> Iterator[Item]:
    changed = sum(bool(verify(study.path(run_id).path)) for run_id in study.records)
    yield Item(
        "The files of every run are those that it wrote",
        changed == 0,
        f"{changed} run folders differ from their checksums or are incomplete",
        "restore the files or run those again",
    )


def text(items: Sequence[Item]) -> str:
    """The checklist as lines."""
    lines = []
    for item in items:
        lines.append(f"[{'x' if item.met else ' '}] {item.question}")
        if not item.met:
            lines += [f"      found: {item.finding}"] * bool(item.finding) + [
                f"      to meet it: {item.remedy}"
            ]
    met = sum(item.met for item in items)
    return "\n".join([*lines, "", f"{met} of {len(items)} met"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.audit", description="The reviewer's checklist of a study."
    )
    options.compared(parser)
    given = parser.parse_args(arguments)
    return report_errors(lambda: _show(given))


def _show(given: argparse.Namespace) -> None:
    study = read(given.study, pool=given.pool)
    cells = cells_of(study)
    found = verdicts(study, cells, baseline=given.baseline, margin=given.margin)
    print(text(audit(study, cells, found)))


if __name__ == "__main__":
    sys.exit(main())
