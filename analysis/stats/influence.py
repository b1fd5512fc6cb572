"""Metrics that are no mean over examples, taken apart into one value per example.

Classification's are computed from counts of classes, those of whole corpora (BLEU, NIST, perplexity, ...)
from the statistics that runs keep of each example (`experiments.metrics.resampling`).

The jackknife's pseudo-values n m - (n-1) m(without i), moved so that their mean is the metric m itself. Their
spread over examples is that of a mean: what another sample of examples would do to m.
"""

from collections.abc import Callable

import numpy as np

from experiments.metrics import resampling


def macro_f1(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> float:
    """The mean of 2 hits / (true + predicted) over the classes that occur."""
    total = true + predicted
    return float((2 * hits[total > 0] / total[total > 0]).mean())


def matthews(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> float:
    """Matthews' correlation for any number of classes; 0 where it is not defined."""
    n = true.sum()
    spread = (n**2 - (predicted**2).sum()) * (n**2 - (true**2).sum())
    return float((hits.sum() * n - true @ predicted) / np.sqrt(spread)) if spread > 0 else 0.0


def f1(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> float:
    """2 hits / (true + predicted) of the last class, the positive one; 0 where it does not occur."""
    total = true[-1] + predicted[-1]
    return float(2 * hits[-1] / total) if total else 0.0


METRICS: dict[str, Callable[..., float]] = {"macro_f1": macro_f1, "matthews": matthews, "f1": f1}


def of_statistics(name: str, statistics: np.ndarray) -> np.ndarray:
    """One value (N,) per example, N > 1, whose mean is a corpus metric of all.

    Args:
        name: one of `resampling.names()`.
        statistics: (N, d), a row per example.
    """
    whole = float(resampling.from_statistics(name, statistics)[0])
    return _moved(whole, resampling.leave_one_out(name, statistics))


def _moved(whole: float, without: np.ndarray) -> np.ndarray:
    """Pseudo-values of a metric, from its values (N,) without each example."""
    return np.asarray(whole - (len(without) - 1) * (without - without.mean()))


def pseudo_values(name: str, labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """One value (N,) per example, N > 1, whose mean is the metric of all.

    Args:
        name: one of METRICS.
        labels: the true classes (N,).
        predictions: the predicted ones (N,).
    """
    n, metric = len(labels), METRICS[name]
    classes, codes = np.unique(np.concatenate([labels, predictions]), return_inverse=True)
    pairs, which = np.unique(codes[:n] * len(classes) + codes[n:], return_inverse=True)
    true, predicted = np.divmod(pairs, len(classes))
    times = np.bincount(which)
    count = lambda at, weights: np.bincount(at, weights, minlength=len(classes))  # noqa: E731
    counts = (count(true, times * (true == predicted)), count(true, times), count(predicted, times))
    one = np.eye(len(classes))
    without = np.array(
        [
            metric(counts[0] - one[t] * (t == p), counts[1] - one[t], counts[2] - one[p])
            for t, p in zip(true, predicted, strict=True)
        ]
    )[which]
    return _moved(metric(*counts), without)
