"""Corpus metrics from statistics of each example, so that other samples of the examples can be scored.

`predictions.parquet` holds them as `statistics/<metric>`, a list of numbers for each example. A bootstrap
asks `from_statistics` for the metric of many samples at once. Numpy alone, as the analysis needs it.

    bleu, bleu_lowercase  words of the answer, of the closest reference, matched n-grams of 1 to 4, n-grams
    chrf                  n-grams of characters of 1 to 6: of the answer, of the best reference, matched
    nist                  information of matched n-grams of 1 to 5, n-grams, words, mean words of references
    cider                 the example's own value, 1
    perplexity            nats, tokens
    pearson, spearman     prediction, reference

The weights of n-grams in NIST and CIDEr are those of all examples, whatever sample is scored.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

_BETA = math.log(0.5) / math.log(1.5) ** 2  # of NIST: half the score where texts have 2/3 of the words
_CHRF_BETA = 2.0


def names() -> list[str]:
    """The metrics that have statistics."""
    return sorted([*_OF_SUMS, *_OF_PAIRS])


def from_statistics(
    name: str, statistics: Sequence[Sequence[float]] | np.ndarray, times: np.ndarray | None = None
) -> np.ndarray:
    """The metric of samples of examples, (B,).

    Args:
        name: One of `names()`.
        statistics: (N, d), a row per example.
        times: (B, N), how often each example is in a sample; None: one sample of all, so that B is 1.

    Raises:
        KeyError: there are no statistics for such a metric.
    """
    rows = np.asarray(statistics, dtype=float)
    times = np.ones((1, len(rows))) if times is None else np.asarray(times)
    if name in _OF_PAIRS:
        return np.array([_OF_PAIRS[name](np.repeat(rows, counts.astype(int), axis=0)) for counts in times])
    return _OF_SUMS[name](times @ rows)


def leave_one_out(name: str, statistics: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """The metric of all examples but one, for each of them, (N,); arguments as of `from_statistics`."""
    rows = np.asarray(statistics, dtype=float)
    if name in _OF_PAIRS:
        return np.array([_OF_PAIRS[name](np.delete(rows, i, axis=0)) for i in range(len(rows))])
    return _OF_SUMS[name](rows.sum(axis=0) - rows)


def _bleu(sums: np.ndarray) -> np.ndarray:
    """Papineni et al. 2002, with sacrebleu's exponential smoothing, from 0 to 100."""
    words, expected, matched, total = sums[:, 0], sums[:, 1], sums[:, 2:6], sums[:, 6:10]
    none = np.logical_and(matched == 0, total > 0)
    smoothed = np.where(none, 0.5 ** np.cumsum(none, axis=1), matched) / np.maximum(total, 1)
    short = np.exp(np.minimum(0.0, 1 - expected / np.maximum(words, 1)))
    usable = np.logical_and(np.all(total > 0, axis=1), np.any(matched > 0, axis=1))
    logs = np.log(np.where(usable[:, None], smoothed, 1.0)).mean(1)
    return np.where(usable, 100 * short * np.exp(logs), 0.0)


def _chrf(sums: np.ndarray) -> np.ndarray:
    """Popovic 2015: F of the mean precision and recall over the orders that occur, from 0 to 100."""
    ours, theirs, matched = (sums[:, part::3] for part in range(3))
    there = (ours > 0) & (theirs > 0)
    orders = np.maximum(there.sum(1), 1)
    precision = (there * matched / np.maximum(ours, 1)).sum(1) / orders
    recall = (there * matched / np.maximum(theirs, 1)).sum(1) / orders
    below = _CHRF_BETA**2 * precision + recall
    return 100 * (1 + _CHRF_BETA**2) * precision * recall / np.where(below > 0, below, 1.0)


def _nist(sums: np.ndarray) -> np.ndarray:
    """Doddington 2002, see `answers/nist.py`."""
    gained, there, words, expected = sums[:, :5], sums[:, 5:10], sums[:, 10], sums[:, 11]
    score = (gained / np.maximum(there, 1)).sum(1)
    ratio = np.minimum(1.0, words / np.maximum(expected, 1e-12))
    return np.where(words > 0, score * np.exp(_BETA * np.log(np.maximum(ratio, 1e-300)) ** 2), 0.0)


def _mean(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0] / sums[:, 1]


def _pearson(pairs: np.ndarray) -> float:
    centred = pairs - pairs.mean(0)
    norms = np.sqrt((centred**2).sum(0)).prod()
    return float((centred[:, 0] * centred[:, 1]).sum() / norms) if norms else 0.0


def _spearman(pairs: np.ndarray) -> float:
    from scipy.stats import rankdata

    return _pearson(rankdata(pairs, axis=0))


_OF_SUMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bleu": _bleu,
    "bleu_lowercase": _bleu,
    "chrf": _chrf,
    "nist": _nist,
    "cider": _mean,
    "perplexity": lambda sums: np.exp(np.minimum(_mean(sums), 700.0)),
}
_OF_PAIRS = {"pearson": _pearson, "spearman": _spearman}
