"""Which rank? What a sweep over ranks says about each variant, and what to run next.

    too small    the training loss ends high at this rank and still falls towards the largest one
    too large    the validation loss turns up before the end while the training loss goes on falling
    sufficient   the smallest rank whose result is equivalent to the best one's within the margin (TOST)

The best rank is the one that validation prefers. Nothing here is a verdict between variants.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis import stats
from analysis.compare import margins
from analysis.compare.pairs import difference
from analysis.compare.training import still_falling
from analysis.runs.cells import finals
from analysis.runs.histories import last_loss
from analysis.runs.load import Study
from analysis.runs.rows import Row, each
from analysis.stats import ALPHA

STALLED = 0.05  # of the loss: how much lower the largest rank must end for a rank to be called too small
TURNED = 0.02  # of the loss: how far above its lowest point the validation loss must end to have turned up


@dataclass
class Advice:
    """What the ranks of one series say, in one setting."""

    series: str
    dataset: str
    model: str
    targets: str
    best: float
    sufficient: float | None
    notes: list[str] = field(default_factory=list)
    next: str = ""

    @property
    def sufficient_text(self) -> str:
        """The smallest rank that does, or that it cannot be said."""
        if self.sufficient is None:
            return "cannot be said yet"
        return f"{self.sufficient:g}" + ("" if self.sufficient < self.best else ", the best itself")


def advise(study: Study, cells: pd.DataFrame, *, margin: float | None) -> list[Advice]:
    """Advice for every series that was run at two ranks or more with all else equal, and learned there.

    `margin` None is that of the metric (`margins.usual`).
    """
    ranked = finals(cells[cells["r"].notna()])
    out = []
    for _, group in ranked.groupby(["peer_key", "stack", "series", "targets"], sort=False):
        group = group.sort_values("r").drop_duplicates("r")
        if len(group) > 1 and group["validation"].notna().all() and not study.unlearned(group)[0]:
            usual = margins.usual(str(group["metric"].iloc[0]), group["mean"].to_numpy(float))
            out.append(_advise(study, group, margin or usual))
    return out


def _advise(study: Study, group: pd.DataFrame, margin: float) -> Advice:
    first = group.iloc[0]
    best = group.loc[(group["sign"] * group["validation"]).idxmax()]
    enough, undecided = _sufficient(study, group, best, margin)
    falling = still_falling(study, [run for cell in each(group) for run in cell["by_seed"].values()])
    enough = None if falling else enough
    found = Advice(
        first["series"], first["dataset"], first["model"], first["targets"], float(best["r"]), enough
    )
    rows = each(group)
    ends = np.array([_end(cell, study) for cell in rows])
    for cell, end in zip(rows, ends, strict=True):
        if cell["r"] < group["r"].max() and end > ends[-1] * (1 + STALLED):
            found.notes.append(
                f"rank {cell['r']:g} looks too small: its training loss ends at {end:.3f}, that of rank "
                f"{group['r'].max():g} at {ends[-1]:.3f}"
            )
        turn = _turn(cell, study)
        if turn:
            found.notes.append(f"rank {cell['r']:g} looks too large, or trains too long: {turn}")
    found.next = _next(group, best, enough, undecided)
    if falling:
        found.notes.append("the validation loss was still falling when training ended")
        found.next = "train longer: which rank is sufficient cannot be said while the loss still falls"
    return found


def _end(cell: Row, study: Study) -> float:
    """The training loss at the end: its mean over the last tenth of the run, averaged over seeds."""
    ends = np.array([last_loss(study.curves(run).training) for run in cell["by_seed"].values()])
    known = ends[~np.isnan(ends)]
    return float(known.mean()) if len(known) else float("nan")


def _turn(cell: Row, study: Study) -> str:
    """Where the validation loss turned up, if most seeds agree that it did."""
    turns = []
    for run_id in cell["by_seed"].values():
        training, validation = study.curves(run_id)
        if len(validation) < 3 or len(training) < 3:
            continue
        low = int(np.argmin(validation[:, 1]))
        step = validation[low, 0]
        later = training[training[:, 0] > step, 1]
        falling = (
            len(later)
            and later[-max(1, len(later) // 3) :].mean() < training[training[:, 0] <= step, 1][-3:].mean()
        )
        up = validation[-1, 1] > validation[low, 1] * (1 + TURNED)
        turns.append(step if low < len(validation) - 1 and up and falling else np.nan)
    if not turns or np.isnan(turns).mean() >= 0.5:
        return ""
    step = f"{np.nanmedian(turns):.0f}"
    return f"its validation loss is lowest at step {step} and rises while the training loss falls"


def _sufficient(study: Study, group: pd.DataFrame, best: Row, margin: float) -> tuple[float | None, bool]:
    """The smallest rank equivalent to the best one, and whether any smaller rank is left undecided."""
    others = {cell["r"]: difference(cell, best, study) for cell in each(group) if cell["r"] != best["r"]}
    known = {r: found for r, found in others.items() if found is not None}
    if not known:
        return None, True
    equivalent = stats.holm(np.array([stats.equivalence_p(found, margin) for found in known.values()]))
    differing = stats.holm(np.array([found.p for found in known.values()]))
    smaller = [r for r in others if r < best["r"]]
    equal = {r for r, p in zip(known, equivalent, strict=True) if p < ALPHA}
    decided = equal | {r for r, p in zip(known, differing, strict=True) if p < ALPHA}
    return float(min([*equal.intersection(smaller), best["r"]])), not decided.issuperset(smaller)


def _next(group: pd.DataFrame, best: Row, enough: float | None, undecided: bool) -> str:
    """The run that would tell most."""
    low, high = group["r"].min(), group["r"].max()
    if enough is None:
        least = f"run at least {stats.FEWEST_SEEDS} seeds at every rank and keep their predictions"
        return f"{least}; less shows no rank to be sufficient"
    if undecided:
        return "add seeds: between the best rank and a smaller one the evidence decides nothing yet"
    if best["r"] == high and enough == high:
        return f"try rank {2 * high:g}: the largest rank is the best, and no smaller one is equivalent to it"
    if enough == low and low > 1:
        return f"try rank {max(1, int(low // 2))}: the smallest rank is already sufficient"
    return f"nothing more on ranks: {enough:g} is sufficient"
