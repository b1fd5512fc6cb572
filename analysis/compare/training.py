"""Whether runs had trained long enough, and whether their seeds did anything, to be compared at all."""

from collections.abc import Collection

import numpy as np

from analysis.runs.load import Study

LAST = 1 / 3  # of a run
FALLING = 0.1  # of all that the loss fell: what it falls in that last part if more steps would still help


def still_falling(study: Study, runs: Collection[str]) -> bool:
    """Whether the validation loss of most of these runs falls to the end; False where no curve tells.

    Rates mostly decay to 0, so that a loss that falls little in the last steps may yet fall with more.
    """
    known = [fell for run in runs if (fell := _fell(*study.curves(run))) is not None]
    return bool(known) and float(np.mean(known)) > 0.5


def _fell(training: np.ndarray, validation: np.ndarray) -> bool | None:
    """Whether the last part of a run brought more than `FALLING` of the fall; None if losses do not tell."""
    if len(validation) < 2 or not len(training):
        return None
    start, end = max(training[0, 1], validation[0, 1]), validation[-1, 1]
    before = float(np.interp(validation[-1, 0] * (1 - LAST), validation[:, 0], validation[:, 1]))
    return bool(before - end > FALLING * (start - end) > 0)


def copies(study: Study, runs: Collection[str]) -> bool:
    """Whether runs with different seeds are one and the same: equal metrics, equal answers to all examples.

    Without scores by example that is not told; a method that trains nothing has no seeds that matter.
    """
    found = []
    for run in runs:
        record, seen = study.records[run], study.predictions.of(run)
        if seen is None or not record["spec"].get("lr"):
            return False
        found.append((record["metrics"], seen.ids, seen.values.tobytes()))
    return any(one == other for i, one in enumerate(found) for other in found[:i])
