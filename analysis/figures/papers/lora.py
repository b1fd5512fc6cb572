"""LoRA's figures: matrices at an equal budget, subspaces, amplification. Hu et al. 2021, arXiv:2106.09685.

    phi(U, V, i, j) = ||U_i^T V_j||_F^2 / min(i, j)     in [0, 1]; U_i: the first i columns of U    (eq. 4)
    1 - phi = d^2 / p, with d the projection metric and p = min(i, j) (appendix G prints it inverted)

For a factor A (r, d_in) the d-dimensional singular vectors are the right ones. A starts at random and keeps
its initial part under a small learning rate, so two runs are better compared by the right singular vectors of
the change D = W' - W.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

import altair as alt
import numpy as np
import pandas as pd
from scipy import special

from analysis import stats
from analysis.figures.figure import Figure, row_name, rows_axis, tooltips
from analysis.figures.papers.view import View, panels, runs_text, short

PAPER = "LoRA"
GRID = 16  # dimensions of a subspace that are drawn along each side
ROWS = 12  # cells in the figure on amplification
EQUAL = 0.05  # relative difference of trained parameters that counts as none
PANELS = 9  # budgets that are drawn


def figures(view: View) -> list[Figure]:
    """What the setting's runs can show of the paper."""
    return [*_equal_parameters(view), *_subspaces(view), *_amplification(view)]


# --- which matrices, at the same number of trained parameters (tables 5 and 6)


def _equal_parameters(view: View) -> Iterator[Figure]:
    """One figure with a panel per budget at which a series was run on several choices of targets."""
    groups = budgets(view.cells)
    if not groups:
        return
    bars = pd.concat([group.assign(panel=_panel_name(group)) for group in groups[:PANELS]])
    bars["row"] = [f"{targets} · r {r:g}" for targets, r in zip(bars["targets"], bars["r"], strict=True)]
    keep = ["panel", "row", "mean", "bar_low", "bar_high", "n", "trainable_parameters", "series"]
    order = list(dict.fromkeys(bars.sort_values(["targets", "r"])["row"]))
    base = alt.Chart().encode(y=rows_axis(order, limit=150), color=view.color(None))
    x = alt.X("mean:Q", title=view.metric, scale=alt.Scale(zero=False), axis=alt.Axis(grid=True, tickCount=4))
    tips = tooltips("row:N", ("mean:Q", "", ".4f"), "n:Q")
    chart = alt.layer(
        base.mark_rule(strokeWidth=2, strokeOpacity=0.6).encode(
            x=alt.X("bar_low:Q", title=view.metric), x2=alt.X2("bar_high:Q")
        ),
        base.mark_point(filled=True, size=90, opacity=1).encode(
            x=x, tooltip=[*tips, *tooltips("trainable_parameters:Q")]
        ),
        data=bars[keep],
    )
    left_out = len(groups) - PANELS
    height = max(70, 34 * int(bars["panel"].value_counts().max()))
    yield view.figure(
        "matrices_at_equal_parameters",
        "Which matrices, at the same number of trainable parameters",
        finding=_best_of(groups[0], view.metric_words)
        if len(groups) == 1
        else _tally(groups, view.metric_words),
        caption="Each row spends a panel's parameters on other matrices; bars: 95% intervals of the means. "
        "The paper finds that adapting more kinds of matrices at a lower rank beats one kind at a higher one."
        + (f" {left_out} more budgets are not drawn, the finding counts them." if left_out > 0 else ""),
        chart=panels(chart, list(dict.fromkeys(bars["panel"])), height=height),
    )


def budgets(cells: pd.DataFrame) -> list[pd.DataFrame]:
    """Groups of cells of one series whose trained parameters agree and whose targets differ."""
    out = []
    known = cells[cells["r"].notna() & (cells["trainable_parameters"] > 0)]
    for _, group in known.groupby("series", sort=False):
        ordered = group.sort_values("trainable_parameters")
        trained, targets = ordered["trainable_parameters"].to_numpy(), ordered["targets"].to_numpy()
        start = 0
        while start < len(ordered):
            end = int(np.searchsorted(trained, (1 + EQUAL) * trained[start], side="right"))
            if len(set(targets[start:end])) > 1:
                out.append(ordered.iloc[start:end])
            start = end
    return out


def _panel_name(group: pd.DataFrame) -> str:
    return f"{group['series'].iloc[0]}, about {group['trainable_parameters'].median():,.0f}"


def _best_first(group: pd.DataFrame) -> np.ndarray:
    """The positions (n,) of a group's cells, the best mean first."""
    return np.argsort(-(group["sign"] * group["mean"]).to_numpy(float), kind="stable")


def _tally(groups: list[pd.DataFrame], metric: str) -> str:
    """How often each choice of targets came out best."""
    counts = Counter(str(group["targets"].to_numpy()[_best_first(group)[0]]) for group in groups)
    (first, times), *others = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = "".join(f", {name} at {n}" for name, n in others)
    text = f"{first} has the best {metric} at {times} of {len(groups)} budgets{rest}"
    return f"{text}: a count of means, no verdict."


def _best_of(group: pd.DataFrame, metric: str) -> str:
    """Best against second best, paired by seed where there are enough seeds."""
    first, second = (group.iloc[at] for at in _best_first(group)[:2])
    text = (
        f"{first['targets']} at r {first['r']:g} has the best {metric}, {first['mean']:.3f}, "
        f"{abs(first['mean'] - second['mean']):.3f} from {second['targets']} at r {second['r']:g}"
    )
    seeds = len(set(first["by_seed"]) & set(second["by_seed"]))
    if seeds < stats.FEWEST_SEEDS:
        return f"{text}: with {runs_text(seeds)} each this is no verdict."
    return f"{text} ({seeds} seeds each; the bars are 95% intervals of the means)."


# --- subspace similarity between ranks, between seeds, and with W (figures 3, 4 and 8)


def _subspaces(view: View) -> Iterator[Figure]:
    rows = [(c, seed, a) for c, seed, a in view.with_arrays("vectors/names") if pd.notna(c["r"])]
    if not rows:
        return
    series = rows[0][0]["series"]
    rows = [row for row in rows if row[0]["series"] == series]
    ranks = sorted({cell["r"] for cell, _, _ in rows})
    top = [row for row in rows if row[0]["r"] == ranks[-1]]
    first = rows[[c["r"] for c, _, _ in rows].index(ranks[0])]
    pairs = []
    if len(ranks) > 1:
        same = next((row for row in top if row[1] == first[1]), top[0])
        pairs.append((f"ranks {ranks[0]:g} (down) and {ranks[-1]:g}", first[2], same[2]))
    other = next(
        (row for row in top if row[0]["cell_key"] == top[0][0]["cell_key"] and row[1] != top[0][1]), None
    )
    if other:
        pairs.append((f"seeds {top[0][1]} (down) and {other[1]} at r {ranks[-1]:g}", top[0][2], other[2]))
    table, said = _similarities(pairs, top[0][2], ranks[-1])
    if table.empty:
        return
    order = list(dict.fromkeys(table["panel"]))
    base = alt.Chart(table).encode(
        x=alt.X("j:O", title="first j directions", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
        y=alt.Y("i:O", title="first i", axis=alt.Axis(labelOverlap=True)),
    )
    fill = alt.Color("phi:Q", title="similarity", scale=alt.Scale(scheme="viridis", domain=[0, 1]))
    tips = tooltips("panel:N", "i:O", "j:O", ("phi:Q", "", ".3f"), ("chance:Q", "by chance", ".3f"))
    yield view.figure(
        "subspace_similarity",
        f"Do changes of {series} share directions?",
        finding=said,
        caption="Similarity of the subspaces of the first i and first j right singular vectors of two "
        "changes W' - W: 0 is orthogonal, 1 contained. One matrix of each kind, from a layer in the "
        "middle. With W: its top tenth of directions (down) and the change.",
        chart=panels(base.mark_rect().encode(color=fill, tooltip=tips), order),
    )


def _similarities(
    pairs: list[tuple[str, Mapping[str, np.ndarray], Mapping[str, np.ndarray]]],
    own: Mapping[str, np.ndarray],
    rank: float,
) -> tuple[pd.DataFrame, str]:
    """The panels' values, and what they say, from the first directions."""
    parts, texts = [], []
    for what, one, two in pairs:
        firsts = []
        for k, name in enumerate(one["vectors/names"]):
            places = [i for i, other in enumerate(two["vectors/names"]) if other == name]
            if not places:
                continue
            U, V = one[f"vectors/{k}/change"], two[f"vectors/{places[0]}/change"]
            phi = similarity(U.astype(float), V.astype(float))
            firsts.append(phi[0, 0])
            parts.append(_panel(f"{short(str(name))}: {what}", phi, len(U)))
            d = len(U)
        if firsts:
            texts.append(
                f"{what.replace(' (down)', '')} share {np.median(firsts):.2f} of their first direction "
                f"(chance {similarity_by_chance(1, 1, d):.3f}; median of {len(firsts)} matrices)"
            )
    for k, name in enumerate(own["vectors/names"]):
        if f"vectors/{k}/base" in own:
            phi = similarity_of(own[f"vectors/{k}/base"].astype(float))
            d = len(own[f"vectors/{k}/change"])
            parts.append(_panel(f"{short(str(name))}: W (down) and r {rank:g}", phi, d))
            if k == 0:
                texts.append(
                    f"W's top {len(phi)} directions hold {phi[-1, 0]:.2f} of the first direction of the "
                    f"change at r {rank:g} ({short(str(name))}; chance {len(phi) / d:.2f})"
                )
    text = "; ".join(texts)
    return (pd.concat(parts) if parts else pd.DataFrame()), f"{text[:1].upper()}{text[1:]}."


def _panel(name: str, phi: np.ndarray, d: int) -> pd.DataFrame:
    """A panel's values on a grid that is thinned to what can be seen."""
    rows, columns = (np.unique(np.linspace(1, n, min(n, GRID)).round().astype(int)) for n in phi.shape)
    i, j = (a.ravel() for a in np.meshgrid(rows, columns, indexing="ij"))
    chance = [round(similarity_by_chance(int(a), int(b), d), 4) for a, b in zip(i, j, strict=True)]
    values = np.round(np.clip(phi[i - 1, j - 1], 0, 1), 4)  # half precision may pass 1 by a little
    return pd.DataFrame({"panel": name, "i": i, "j": j, "phi": values, "chance": chance})


# --- amplification (table 7)

SOURCES = {"projected": "of the change", "top": "of W itself", "random": "random"}


def _amplification(view: View) -> Iterator[Figure]:
    rows = [
        (row_name(cell), name, float(f"{factor:.4g}"), seed, str(matrix))
        for cell, seed, found in view.with_arrays("change/norm")
        for source, name in SOURCES.items()
        if f"change/{source}" in found
        for factor, matrix in zip(
            found["change/norm"] / found[f"change/{source}"], found["change/names"], strict=True
        )
    ]
    if not rows:
        return
    table = pd.DataFrame(rows, columns=["row", "directions", "factor", "seed", "matrix"])
    order = list(dict.fromkeys(table["row"]))[:ROWS]
    table = table[table["row"].isin(order)]
    names = [name for name in SOURCES.values() if name in set(table["directions"])]
    scale = alt.Scale(domain=names)
    base = alt.Chart(table).encode(
        y=rows_axis(order),
        color=alt.Color("directions:N", scale=scale, sort=names),
        yOffset=alt.YOffset("directions:N", sort=names),
    )
    x = alt.X(
        "factor:Q",
        title="Amplification, log scale",
        scale=alt.Scale(type="log"),
        axis=alt.Axis(grid=True, format="~g", tickCount=6),
    )
    tips = tooltips("row:N", "directions:N", "matrix:N", "seed:Q", "factor:Q")
    chart = alt.layer(
        base.mark_point(filled=True, size=28, opacity=0.55).encode(
            x=x, tooltip=tips, shape=alt.Shape("directions:N", scale=scale, sort=names)
        ),
        base.mark_tick(thickness=2.5, size=14, opacity=1).encode(
            x=alt.X("median(factor):Q", title="Amplification, log scale")
        ),
    ).properties(height=max(80, 48 * len(order)))
    yield view.figure(
        "amplification",
        "How much does the change amplify what W holds in its directions?",
        finding=_amplified(table, order[0]),
        caption="||W' - W|| over ||U'WV||, the part of W in r directions: those of the change, W's own top "
        "ones, random ones. A point per matrix, a bar at the median. The paper finds about 20 at r = 4: "
        "directions that W has but does not emphasise.",
        chart=chart,
    )


def _held(rows: pd.DataFrame) -> str:
    """How much more of W lies in the change's directions than in random ones, matrix by matrix."""
    wide = rows.pivot_table("factor", ["seed", "matrix"], "directions")
    pair = [SOURCES["random"], SOURCES["projected"]]
    if not set(pair) <= set(wide):
        return ""
    low, middle, high = (wide[pair[0]] / wide[pair[1]]).quantile([0.25, 0.5, 0.75])
    return (
        f": W is {middle:.2g} times as large in its own as in random ones (quartiles {low:.2g} to {high:.2g})"
    )


def _amplified(table: pd.DataFrame, row: str) -> str:
    here = table[table["row"] == row]
    of = {name: group["factor"] for name, group in here.groupby("directions")}
    own = of[SOURCES["projected"]]
    low, high = own.quantile([0.25, 0.75])
    words = {"of W itself": "directions of W itself", "random": "random ones"}
    others = " and ".join(f"{of[name].median():.2g} for {words[name]}" for name in words if name in of)
    against = f", against {others}{_held(here)}" if others else ""
    return (
        f"{row} amplifies its own directions of W by {own.median():.2g} (median of "
        f"{here['matrix'].nunique()} matrices in {runs_text(here['seed'].nunique())}, "
        f"quartiles {low:.2g} to {high:.2g}){against}."
    )


# --- the analysis, on arrays


def similarity(U: np.ndarray, V: np.ndarray) -> np.ndarray:
    """phi (i, j) for all i, j from 1 on, of two sets of orthonormal columns (d, i), (d, j)."""
    return similarity_of(U.T @ V)


def similarity_of(products: np.ndarray) -> np.ndarray:
    """The same from the products U^T V (i, j) of the columns."""
    shared = np.square(products).cumsum(axis=0).cumsum(axis=1)
    i, j = np.indices(shared.shape) + 1
    return np.asarray(shared / np.minimum(i, j))


def similarity_by_chance(i: int, j: int, d: int) -> float:
    """The expected phi of two random subspaces of dimensions i and j in d dimensions."""
    return max(i, j) / d


def entropy_rank(sigma: np.ndarray) -> float:
    """The effective rank exp(H(sigma / sum sigma)) of a matrix with singular values sigma (k,)."""
    return float(np.exp(special.entr(sigma / sigma.sum()).sum()))


def stable_rank(sigma: np.ndarray) -> float:
    """||D||_F^2 / ||D||_2^2 from the singular values (k,)."""
    return float(np.square(sigma).sum() / np.square(sigma.max()))
