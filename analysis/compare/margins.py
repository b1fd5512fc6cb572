"""The margin: how large a difference may be and yet not matter, where nobody says it.

1% of the metric's range, from nothing right to all right: 0.01 of accuracy, 1 of BLEU. A metric without
bounds (loss, perplexity) has no such range: 1% of the baseline's value. Metrics of others come as shares or
in per cent, which their values tell.
"""

import numpy as np

from experiments.metrics import SPANS

SHARE = 0.01


def usual(metric: str, scores: np.ndarray) -> float:
    """The margin of a metric, in its own units, to two digits.

    Args:
        metric: its name, which may be a path such as after/wikitext/perplexity.
        scores: of the baseline's cells (n,).
    """
    known = np.abs(scores[np.isfinite(scores)])
    span, largest = SPANS.get(metric.rsplit("/", 1)[-1]), float(known.max(initial=0.0))
    if span is None:
        return float(f"{SHARE * (known.mean() if largest else 1.0):.2g}")
    return SHARE * (100.0 if largest > span else 1.0 if largest <= 1 else span)


def text(metric: str, margin: float) -> str:
    """A margin with its unit where that is not obvious: "0.01", "0.021 (1% of the baseline's loss)"."""
    name = metric.rsplit("/", 1)[-1]
    return f"{margin:g}" + (f" (1% of the baseline's {name.replace('_', ' ')})" if name not in SPANS else "")
