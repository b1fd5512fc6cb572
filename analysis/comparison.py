"""One comparison: what the runs of a pair of cells show, with all that the report says of it.

Nothing here knows of the other comparisons: the p values are adjusted, and judged, in `verdicts`.
"""

from typing import Any

import numpy as np

from analysis import identity, stats
from analysis.load import Study
from analysis.pairs import Pair, paired

COLUMNS = (
    "dataset",
    "model",
    "metric",
    "targets",
    "alpha",
    "r",
    "cell_key",
    "variant",
    "baseline",
    "n_seeds",
    "difference",
    "ci_low",
    "ci_high",
    "p",
    "p_adjusted",
    "margin",
    "smallest_detectable",
    "verdict",
)
BLIND = "how much of it is the noise of the test examples is not known"

EVIDENCE = (
    "key",
    "p_tost",
    "se",
    "sd_seeds",
    "n_examples",
    "seeds",
    "sign_flip",
    "sign_flip_floor",
    "mcnemar",
    "failed",
    "failed_baseline",
    "variant_r",
    "stack",
    "why",
    "cells",
    "split",
    "scores",
    "scores_baseline",
    "sign",
    "ranks",
    "sides",
    "left_out",
    "head_rates",
    "noise",
    "learned",
)


def compared(pair: Pair, study: Study, margin: float, mixed: set[str]) -> dict[str, Any]:
    """One comparison with its evidence, before the adjustment."""
    variant, plain = pair.variant[0], pair.baseline[0]
    common = paired(pair, study)
    n = len(common.seeds)
    keys = [cell["cell_key"] for cell in pair.variant]
    stack = plain["stack"] if plain["peer_key"] in mixed else ""
    key = keys[0] if len(keys) == 1 else identity.joint_key(variant["series"], plain, keys)
    row: dict[str, Any] = dict.fromkeys((*COLUMNS, *EVIDENCE)) | {
        "dataset": plain["dataset"],
        "model": plain["model"],
        "metric": plain["metric"] if plain["split"] != "validation" else f"validation/{plain['metric']}",
        "targets": plain["targets"],
        "alpha": pair.alpha,
        "r": pair.r,
        "variant": variant["series"],
        "baseline": plain["series"],
        "cell_key": f"{key}@{stack}" if stack else key,
        "n_seeds": n,
        "margin": margin,
        "seeds": tuple(common.seeds),
        "difference": float(common.by_seed.mean()) if n else None,
        "variant_r": variant["r"],
        "stack": stack,
        "key": (plain["peer_key"], plain["stack"], plain["split"], plain["targets"], variant["series"]),
        "split": plain["split"],
        "failed": sum(int(c["failed"] + c["diverged"]) for c in pair.variant),
        "failed_baseline": sum(int(c["failed"] + c["diverged"]) for c in pair.baseline),
        "cells": tuple((c["cell_key"], c["stack"]) for c in (*pair.variant, *pair.baseline)),
        "n_examples": 0,
        "ranks": common.ranks,
        "left_out": tuple(common.left_out),
        "head_rates": _head_rates(pair, study),
        "scores": common.variant,
        "scores_baseline": common.baseline,
        "sign": common.sign,
        "learned": not (n and all(map(study.learned_nothing, common.runs))),
    }
    if n < stats.FEWEST_SEEDS:
        return row | {"why": _too_few(n, row)}
    if not row["learned"]:
        return row | {
            "why": "the runs of both sides give one answer to all examples each: nothing was learned"
        }
    blind = common.by_example is None
    found = (
        stats.one_way(common.by_seed)
        if common.by_example is None
        else stats.two_way(common.by_example, step=common.step)
    )
    if found.noise.se == 0 and found.mean != 0:
        return row | {
            "why": "all seeds differ by exactly the same amount, so that noise is unknown: do the seeds work?"
        }
    flip, floor = stats.sign_flip(common.by_seed, rng=np.random.default_rng(0))
    alone = common.scores if len(common.scores) == 1 and common.binary else []
    return row | {
        "difference": found.mean,
        "ci_low": found.low,
        "ci_high": found.high,
        "p": found.p,
        "se": found.noise.se,
        "p_tost": stats.equivalence_p(found, margin),
        "n_examples": found.n_examples,
        "smallest_detectable": stats.smallest_detectable(found.noise) if found.n_examples else None,
        "noise": found.noise,
        "why": f"{BLIND}, since {common.why_blind}" if blind else None,
        "sign_flip": flip,
        "sign_flip_floor": floor,
        "sd_seeds": float(common.by_seed.std(ddof=1)),
        "mcnemar": tuple(stats.mcnemar(*alone[0])) if alone else (),
    }


def _too_few(n: int, row: dict[str, Any]) -> str:
    """Why so few seeds give no verdict, with the runs that were lost."""
    none = "no seed was completed on both sides" + (" at every rank" if row["r"] == "all" else "")
    seeds = f"{n} paired seed{'s' if n != 1 else ''}" if n else none
    lost = [
        f"{row[count]} run{'s' if row[count] != 1 else ''} of {row[name]} failed or diverged"
        for name, count in (("variant", "failed"), ("baseline", "failed_baseline"))
        if row[count]
    ]
    return "; ".join([seeds, *lost, f"a verdict needs at least {stats.FEWEST_SEEDS}"])


def _head_rates(pair: Pair, study: Study) -> tuple[float, float] | None:
    """The learning rates of the two heads, variant's first, at the first rank at which they differ."""
    for cells in zip(pair.variant, pair.baseline, strict=True):
        specs = [study.records[cell["run_ids"][0]]["spec"] for cell in cells]
        ours, theirs = [(spec.get("train") or {}).get("head_lr") for spec in specs]
        if ours and theirs and ours != theirs:
            return ours, theirs
    return None
