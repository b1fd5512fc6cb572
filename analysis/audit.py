"""python -m analysis.audit runs/STUDY: what a reviewer would ask, met or not, and what would meet it.

    python -m analysis.audit FILES --format peft|csv|wandb

reads results of others first, as `analysis.foreign` does, writes them as a study and audits that.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from analysis import options, stats
from analysis.compare.budgets import halving
from analysis.compare.verdicts import Verdicts
from analysis.foreign import importing, rules, summary
from analysis.foreign.independent import is_foreign, verdicts
from analysis.runs.cells import cells as cells_of
from analysis.runs.cells import finals, key_of, missing_seeds
from analysis.runs.load import Study, read
from analysis.runs.rates import shared
from analysis.runs.rows import each
from analysis.text.limits import listed_steps, paid
from experiments.errors import UserError, report_errors
from experiments.protocol import ADVISED_SEEDS, EQUAL_PARAMETERS
from experiments.record import verify

FAIR = "use hydra/sweeper=fair"
MARKS = {True: "x", False: " ", None: "?"}


@dataclass(frozen=True)
class Item:
    """One line of the checklist; `remedy` says what would meet it where it is not met.

    `met` is None where nothing tells: such a line counts neither as met nor as broken.
    """

    question: str
    met: bool | None
    finding: str
    remedy: str = ""


def audit(study: Study, cells: pd.DataFrame, found: Verdicts, *, files: bool = True) -> list[Item]:
    """The whole checklist; `files` also recomputes the checksums of every run folder.

    Results of others have their own rules instead of those on code, data and files.
    """
    checks: list[Callable[..., Iterator[Item]]] = [_evidence, _tuning, _fairness, _losses]
    if is_foreign(study):
        checks.append(lambda *given: (Item(*rule) for rule in rules.rules(*given)))
    else:
        checks.append(_origin)
    items = [item for check in checks for item in check(study, cells, found)]
    if is_foreign(study):
        return [replace(i, remedy=rules.remedy(i.question, i.remedy, i.met)) for i in items]
    return items + (list(_files(study)) if files else [])


def _evidence(study: Study, cells: pd.DataFrame, found: Verdicts) -> Iterator[Item]:
    table = found.overall
    few = table[table["n_seeds"] < ADVISED_SEEDS]
    least = int(table["n_seeds"].min()) if len(table) else 0
    yield Item(
        f"Every comparison rests on {ADVISED_SEEDS} paired seeds or more",
        *_none_of(few, table, f"have fewer, the least has {least}", "there is no comparison"),
        f"run seed=0,1,2,3,4 for every cell; below {stats.FEWEST_SEEDS} there is no verdict at all",
    )
    judged, no_interval = table[table["p_adjusted"].notna()], "no comparison has an interval"
    blind = judged[judged["n_examples"] == 0]
    yield Item(
        "Test examples count as noise, not only seeds",
        *_none_of(blind, judged, "comparisons have no usable per-example scores", no_interval),
        "keep predictions.parquet of every run, with a metric that is a mean over examples",
    )
    missing = judged[~(judged["detectable_in_family"] <= judged["margin"])]  # nan: nothing could be shown
    what = f"comparisons could not show {found.margins} (power {stats.POWER:g}, adjusted for their number)"
    yield Item(
        "The study could have shown a difference as small as the margin",
        *_none_of(missing, judged, what, no_interval),
        _power_remedy(judged),
    )
    yield _looks(table)
    names = table.groupby("variant")["dataset"].nunique()
    yield Item(
        "Each variant was compared on two datasets or more",
        len(names) > 0 and bool((names > 1).all()),
        f"{int((names < 2).sum())} of {len(names)} variants were compared on one dataset",
        "compare on another dataset as well; what holds on one need not hold on the next",
    )


def _none_of(bad: pd.DataFrame, of: pd.DataFrame, what: str, empty: str) -> tuple[bool, str]:
    """Whether there are rows and none is bad, and the finding: how many are, or that there is no row."""
    return len(of) > 0 and bad.empty, f"{len(bad)} of {len(of)} {what}" if len(of) else empty


def _looks(table: pd.DataFrame) -> Item:
    """Whether all seeds were requested before a result could be seen."""
    known = [steps for steps in table["steps"] if steps]
    added = [steps for steps in known if len(steps) > 1]
    most = max(added, key=len, default=())
    finding = "no list of requested runs says it"
    if added:
        finding = (
            f"seeds were added later in {len(added)} of {len(table)} comparisons ({listed_steps(most)}); "
        )
        finding += paid(most)
    return Item(
        "All seeds were requested at once, before any result could be seen",
        not added if known else None,
        finding,
        "decide on the number of seeds by the dry run, and request them in one command",
    )


def _power_remedy(judged: pd.DataFrame) -> str:
    noisiest = (judged["sd_seeds"] / judged["margin"]).max()
    seeds = stats.seeds_needed(1.0, stats.Spread(float(noisiest))) if noisiest > 0 else None
    why = "for the noisiest comparison, without the noise of test examples"
    return f"{f'about {seeds}' if seeds else 'many more'} seeds ({why}), a larger test set, or a wider margin"


def _tuning(study: Study, cells: pd.DataFrame, found: Verdicts) -> Iterator[Item]:
    final = cells[cells["final"]]
    rated = not is_foreign(study) or bool(final["lr"].notna().any())
    known = lambda met: met if rated else None  # noqa: E731
    tried: dict[tuple[int, int], set[str]] = {}
    for row in each(final):
        tried.setdefault(found.budgets[key_of(row)].effort, set()).add(str(row["series"]))
    points = sorted(set(tried) - {(0, 0)})  # 0: nothing to tune
    unknown = any(budget.unknown for budget in found.budgets.values())
    notes = "; ".join(
        f"{n} for {rules.listed(sorted(tried[n, runs]))}" + f" ({runs} runs)" * (runs > 0)
        for n, runs in points
    )
    notes += "; some were confirmed without their tuning runs" if unknown else ""
    yield Item(
        "The learning rate of every variant was tuned, with the same number of points",
        known(len(points) == 1 and points[0][0] > 1 and not unknown),
        f"points per cell: {notes or 'none'}" if rated else rules.NO_RATES,
        f"{FAIR}, which gives every cell equally many points and chooses on validation",
    )
    if rules_of := halving(study, final):
        yield Item(
            "All points were dropped by one rule, the same for every variant",
            len(rules_of) == 1,
            "; ".join(rules_of),
            "give the same hydra.sweeper.halving, factors and train.steps to every variant of the study",
        )
    tuned = [budget for budget in found.budgets.values() if budget.tuned]
    edges = [budget for budget in tuned if budget.edges]
    yield Item(
        "No chosen value lies on the edge of its grid",
        known(bool(tuned) and not edges),
        f"{len(edges)} of {len(tuned)} chosen values lie on an edge"
        if tuned
        else "nothing was chosen from several values"
        if rated
        else rules.NO_RATES,
        "extend the grid where the edge was chosen, and give the other variants as many more points "
        "(hydra.sweeper.extensions)",
    )
    shared = sorted({seed for budget in tuned for seed in budget.shared})
    blind = sum(not budget.seeds for budget in tuned)
    yield Item(
        "Rates were chosen with other seeds than those that are compared",
        known(bool(tuned) and all(budget.apart for budget in tuned)),
        f"seeds in both: {shared}"
        if shared
        else f"{blind} cells have no tuning runs"
        if tuned
        else "nothing was chosen from several values"
        if rated
        else rules.NO_RATES,
        f"{FAIR}, which confirms on seeds that tuning never saw",
    )
    runs = study.runs[study.runs["phase"] == "tune"]
    tested = int((runs["split"] == "test").sum())
    floor = set(study.runs.loc[study.runs["again"] > 0, "cell_key"])  # measures noise, chooses nothing
    results = cells[~cells["tuning"] & ~cells["final"] & (cells["n"] > 0)]
    more = len(set(results["cell_key"]) - floor)
    yield Item(
        "The test set was read for the chosen values alone",
        known(not tested and not more),
        f"{tested} tuning runs and {more} cells that were not chosen were tested"
        if rated
        else rules.NO_RATES,
        f"{FAIR}, which never tests a run that tunes",
    )


def _fairness(study: Study, cells: pd.DataFrame, found: Verdicts) -> Iterator[Item]:
    final = finals(cells)
    unmatched, unknown = [], []
    for _, group in final.groupby(["peer_key", "stack"], sort=False):
        of_baseline = group["series"] == found.baseline
        of_baseline = of_baseline if of_baseline.any() else group["variant"] == found.baseline
        plain = group.loc[of_baseline, "trainable_parameters"].dropna()
        for name, others in group[~of_baseline].groupby("series"):
            own = others["trainable_parameters"].dropna()
            if own.empty or (plain.empty and of_baseline.any()):
                unknown.append(str(name))
            elif not any(abs(a - b) <= EQUAL_PARAMETERS * b for a in own for b in plain):
                unmatched.append(str(name))
    yield Item(
        "Each variant was also compared at an equal number of trainable parameters",
        len(final) > 0 and not unmatched if unmatched or not unknown else None,
        f"no cell within {EQUAL_PARAMETERS:.0%} of a baseline's: {rules.listed(sorted(unmatched))}"
        if unmatched
        else f"their numbers are not known for {rules.listed(sorted(unknown))}" * bool(unknown),
        "match=parameters chooses ranks at which the numbers are about equal",
    )
    differ = len(shared(final, ["peer_key", "lr"]))
    yield Item(
        "No cells of different scale times rank share an untuned learning rate",
        None if is_foreign(study) and final["scaled_rank"].isna().all() else differ == 0,
        f"{differ} rates are shared by cells of different scale times rank, which moves the best rate"
        if differ
        else "neither alpha nor how it scales is known",
        "leave lr out, so that each cell has its own, or tune it",
    )


def _losses(study: Study, cells: pd.DataFrame, found: Verdicts) -> Iterator[Item]:
    bad = study.runs[study.runs["status"] != "completed"]
    lost = len(bad) + len(study.unfinished) + len(study.missing)
    yield Item(
        "No run failed, diverged, is unfinished or missing",
        None if is_foreign(study) and not lost and not rules.says(study, "stated") else not lost,
        f"{len(bad)} failed or diverged, {len(study.unfinished)} unfinished, {len(study.missing)} missing; "
        f"all are listed in the report"
        if lost
        else "the files name no run's status, so that those without a result may have been left out",
        "give the command of the study again: it goes on from what is there; a diverged run is a result",
    )
    constant, runs = study.unlearned(cells[cells["final"]])
    yield Item(
        "No result is that of a run that gives one answer to all examples",
        None if is_foreign(study) else constant == 0,
        "the answers to single examples are not known"
        if is_foreign(study)
        else f"{constant} of {runs} runs do",
        "train longer or at another learning rate; such a run says nothing about its variant",
    )
    missing = missing_seeds(cells)
    remedy = "run the same seeds for all cells, since only common seeds are paired"
    numbered = rules.says(study, "numbered")
    yield Item(
        "Every cell has the seeds that the others have",
        None if numbered and not missing else not missing,
        f"{len(missing)} lack some" if missing else "runs without a seed were numbered in their order",
        remedy,
    )
    wrong = len(study.problems) + len(found.problems)
    finding = f"{wrong} were left out or corrected; the report names each"
    yield Item("Every record could be used as it is", not wrong, finding, "run those again")
    noted = sum(bool(record.get("deviations")) for record in study.records.values())
    yield Item(
        "No run deviates from what was requested",
        None if is_foreign(study) else noted == 0,
        "what was requested is not known" if is_foreign(study) else f"{noted} runs note deviations",
        "see the report's notes",
    )


def _origin(study: Study, cells: pd.DataFrame, found: Verdicts) -> Iterator[Item]:
    environments = [record.get("env") or {} for record in study.records.values()]
    yield Item(
        "All compared runs share code, versions, hardware and data",
        not found.differing and bool(environments),
        f"they differ in {', '.join(found.differing)}" if found.differing else "",
        "run the study again in one environment, or use --pool and say why",
    )
    unknown = sum(not env.get("git_sha") and not env.get("code_sha256") for env in environments)
    dirty = sum(bool(env.get("dirty")) for env in environments)
    yield Item(
        "The code of every run is known and committed",
        bool(environments) and not unknown and not dirty,
        f"{unknown} runs do not say which code they ran, {dirty} ran with uncommitted changes",
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
    packed = any("pack" in study.records[i] for i in study.completed["run_id"])
    yield Item(
        "Parameters, memory and step time are recorded",
        lacking == 0,
        f"{lacking} runs lack some" + ", as memory and time of a pack are not one run's" * packed,
        "run them again" + " with pack=off" * packed,
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
        lines.append(f"[{MARKS[item.met]}] {item.question}")
        if not item.met:
            what = "to know" if item.met is None else "to meet"
            lines += [f"      found: {item.finding}"] * bool(item.finding)
            lines += [f"      {what} it: {item.remedy}"] * bool(item.remedy)
    return "\n".join([*lines, "", counted(items)])


def counted(items: Sequence[Item]) -> str:
    """How many lines of the checklist are met, and of how many nothing tells."""
    unknown = sum(item.met is None for item in items)
    met = f"{sum(bool(item.met) for item in items)} of {len(items)} met"
    return met + f", {unknown} not known" * bool(unknown)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.audit",
        description="The reviewer's checklist of a study, or of results that others published.",
    )
    options.compared(parser, several=True)
    foreign = parser.add_argument_group("results of others")
    foreign.add_argument(
        "--format",
        choices=sorted(importing.READERS),
        help="of the files: PEFT's method comparison, a CSV with a row per run, an export of W&B",
    )
    foreign.add_argument("--out", type=Path, help="the study folder to write (default: runs/NAME)")
    foreign.add_argument(
        "--examples", action="append", default=[], metavar="[TASK=]N",
        help="test examples, where the files do not say it",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    return report_errors(lambda: _show(given))


def _show(given: argparse.Namespace) -> None:
    notes: list[str] = []
    if given.format is None:
        folder = _own(given)
    else:
        sizes = importing.sizes(given.examples)
        folder, notes = importing.study(
            given.study, given.format, given.out, metric=given.metric, examples=sizes
        )
    metric = given.metric if given.format is None else None  # else the records have it alone
    study = read(folder, pool=given.pool, metric=metric)
    cells = cells_of(study)
    found = verdicts(study, cells, baseline=given.baseline, margin=given.margin)
    if is_foreign(study):
        print(
            "\n".join(
                [*summary.conclusions(study, cells, found, notes), "", "The rules of a fair comparison"]
            )
        )
    print(text(audit(study, cells, found)))
    if is_foreign(study):
        print(f"\nThe records are in {folder}. The report:")
        print(f"python -m analysis.report {folder} --baseline {found.baseline}")


def _own(given: argparse.Namespace) -> Path:
    """The study folder of a command without --format."""
    files = [path for path in given.study if path.is_file()]
    if files or len(given.study) > 1:
        what = f"{files[0]} is a file" if files else "there are several folders"
        raise UserError(f"{what}: for results of others add --format csv, peft or wandb.")
    if given.out or given.examples:
        raise UserError("--out and --examples are for results of others: add --format csv, peft or wandb.")
    return Path(given.study[0])


if __name__ == "__main__":
    sys.exit(main())
