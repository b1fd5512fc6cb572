"""QLoRA's figures: a 4-bit base's bits, memory, error and recovery. Dettmers et al. 2023, arXiv:2305.14314.

    bits per weight = 4 + 32/64                        absmax in fp32 per block of 64
    with double quantisation: 4 + 8/64 + 32/(64 256)   absmax in 8 bits, its own absmax per 256 blocks

and, with double quantisation (DQ), one fp32 offset per tensor.

What adaptation brings back (section 4), with adapters (a) and without (b), on 4 bits or dense:

    recovery = (a4 - b4) / (a16 - b4)

Without adapters is the head alone where there is one, else the model as it was.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis import stats
from analysis.figures.figure import Figure, row_name, rows_axis, tooltips
from analysis.figures.papers.view import View, interval_text, runs_text
from analysis.runs.rows import Row

PAPER = "QLoRA"
BARS = 12  # cells in the figure on memory
DROWNS = 4  # times what was counted: above it the rest of the peak is told, not drawn
PARTS = ["base, quantised", "base, dense", "adapters and head", "gradients", "optimiser",
         "all else at the peak"]  # fmt: skip
BLOCK, OUTER = 64, 256
DENSE = ("fp32", "bf16")
DOUBLE = " + DQ"
WITHOUT = {"probe": "the head alone", "zero": "no training"}  # method -> what it is called
KINDS = (
    "without adapters, 4-bit base",
    "without adapters, dense base",
    "adapters, 4-bit base",
    "adapters, dense base",
)


def figures(view: View) -> list[Figure]:
    """What the setting's runs can show of the paper."""
    return [*_bits(view), *_errors(view), *_memory(view), *_recovery(view)]


def _bits(view: View) -> Iterator[Figure]:
    """Bits per weight by component, for the storages of this study's runs."""
    measured: dict[str, float] = {}
    for cell, _, found in view.with_arrays("storage/codes"):
        stored = float(found["storage/codes"] + found["storage/scales"])
        measured[storage_name(view.spec(cell))] = 8 * stored / float(found["storage/weights"])
    if not measured:
        return
    codes = ", ".join(sorted({name.removesuffix(DOUBLE) for name in measured}))
    table = pd.DataFrame(
        [
            {"storage": name, "component": part, "bits": round(bits, 5), "place": place}
            for name in (codes, codes + DOUBLE)
            for place, (part, bits) in enumerate(bits_per_weight(double=name.endswith(DOUBLE)).items())
        ]
    )
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("bits:Q", title="Bits per weight", axis=alt.Axis(grid=True)),
            y=alt.Y("storage:N", title=None, sort=None, axis=alt.Axis(labelLimit=260, domain=False)),
            color=alt.Color("component:N", sort=list(dict.fromkeys(table["component"]))),
            order=alt.Order("place:Q"),
            tooltip=tooltips("storage:N", "component:N", "bits:Q"),
        )
        .properties(height=110)
    )
    yield view.figure(
        "bits_per_weight",
        "Bits of a stored weight, by component",
        finding="The quantised maps of these runs take " + _counted(measured) + ".",
        caption="4 bits of code, and the scales of blocks of 64: in 32 bits, or in 8 with a scale of their "
        "own for every 256 (DQ, double quantisation). Not in the formula: a number per matrix, and blocks "
        "that are not full.",
        chart=chart,
    )


def _counted(measured: Mapping[str, float]) -> str:
    """The bits of each storage as counted, storages alike in one, and as the formula has them."""
    equal: dict[tuple[str, str], list[str]] = {}
    for name, bits in sorted(measured.items()):
        formula = sum(bits_per_weight(double=name.endswith(DOUBLE)).values())
        equal.setdefault((f"{bits:.3f}", f"{formula:.3f}"), []).append(name)
    return "; ".join(
        f"{bits} bits per weight in {', '.join(found)} (by the formula {formula})"
        for (bits, formula), found in equal.items()
    )


def _errors(view: View) -> Iterator[Figure]:
    for _, _, found in view.with_arrays("storage/error"):
        error, formats = found["storage/error"], [str(name) for name in found["storage/formats"]]
        if error.ndim != 2 or not error.size:
            continue
        table = pd.DataFrame(
            [
                {"format": name.replace(" double", DOUBLE), "error": float(f"{e:.5g}"), "matrix": str(m)}
                for name, row in zip(formats, error, strict=True)
                for e, m in zip(row, found["storage/names"], strict=True)
            ]
        )
        middle = table.groupby("format", sort=False)["error"].median().sort_values(kind="stable")
        order = list(middle.index)
        base = alt.Chart(table).encode(
            y=alt.Y("format:N", sort=order, title=None, axis=alt.Axis(grid=False, domain=False))
        )
        title = "Squared error over squared weight"
        chart = alt.layer(
            base.mark_point(filled=True, size=30, opacity=0.5).encode(
                x=alt.X(
                    "error:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(grid=True, format="~g")
                ),
                tooltip=tooltips("format:N", "matrix:N", "error:Q"),
            ),
            base.mark_tick(thickness=2.5, size=16).encode(x=alt.X("median(error):Q", title=title)),
        ).properties(height=170)
        yield view.figure(
            "quantisation_error",
            "What each 4-bit format loses before training",
            finding="Median relative error: "
            + ", ".join(f"{name} {value:.4g}" for name, value in middle.items())
            + f" ({table['matrix'].nunique()} matrices of this model; exact, no chance in it).",
            caption="Each format on the same weights, in blocks of 64; DQ: the blocks' scales in 8 bits. A "
            "point per matrix, a bar at the median. Theory, for normal weights: nf4 0.0085, int4 0.0116, fp4 "
            "0.0149.",
            chart=chart,
        )
        return


def _memory(view: View) -> Iterator[Figure]:
    rows = [row for cell in view.rows[:BARS] for row in _parts(view, cell)]
    table = pd.DataFrame(rows)
    if table.empty or not (table["part"] == PARTS[0]).any():
        return
    order, rest = list(dict.fromkeys(table["row"])), table["part"] == PARTS[-1]
    drowned = table.loc[rest, "mb"].max() > DROWNS * table[~rest].groupby("row")["mb"].sum().max()
    chart = (
        alt.Chart(table[~rest] if drowned else table)
        .mark_bar()
        .encode(
            x=alt.X("mb:Q", title="MB", axis=alt.Axis(grid=True)),
            y=rows_axis(order),
            color=alt.Color("part:N", sort=PARTS, scale=alt.Scale(domain=PARTS[: -1 if drowned else None])),
            order=alt.Order("place:Q"),
            tooltip=tooltips("row:N", "part:N", ("mb:Q", "", ".4~g")),
        )
        .properties(height=max(80, 30 * len(order)))
    )
    frozen = table[table["part"].isin(PARTS[:2])].groupby("row", sort=False)["mb"].sum()
    small, large = frozen.idxmin(), frozen.idxmax()
    yield view.figure(
        "memory_by_part",
        "Memory while training, by part",
        finding=f"The frozen base takes {frozen[small]:.3g} MB in {small} and {frozen[large]:.3g} MB in "
        f"{large}, {frozen[small] / frozen[large]:.0%} (counted from the stored tensors).",
        caption="Gradients in 32 bits and two averages of Adam for each trained parameter. All else is "
        "what the peak has beyond that: activations and, where the peak is that of a process on a CPU, its "
        "libraries and data."
        + (f" It is not drawn here: up to {table.loc[rest, 'mb'].max():,.0f} MB." if drowned else ""),
        chart=chart,
    )


def _parts(view: View, cell: Row) -> Iterator[dict[str, Any]]:
    """The parts of one cell's memory in MB; nothing of a cell whose base was not measured."""
    if not cell["base_bytes"] > 0 or not cell["trainable_parameters"] >= 0:
        return
    found = view.study.arrays(next(iter(cell["by_seed"].values())))
    quantised = float(found["storage/codes"] + found["storage/scales"]) if "storage/codes" in found else 0.0
    trained = 4 * cell["trainable_parameters"]  # bytes; a gradient and Adam's two averages take as many each
    known = [quantised, cell["base_bytes"] - quantised, trained, trained, 2 * trained]
    rest = cell["peak_bytes"] - sum(known) if cell["peak_bytes"] > 0 else 0
    for place, (name, value) in enumerate(zip(PARTS, [*known, rest], strict=True)):
        if value > 0:
            yield {"row": row_name(cell), "part": name, "mb": float(f"{value / 1e6:.4g}"), "place": place}


# --- what adaptation brings back


@dataclass(frozen=True)
class Case:
    """Adapters on a 4-bit base, and the cells that they are measured by."""

    storage: str
    adapted: Row
    dense: Row  # the same adapters on a dense base
    before: Row  # without adapters on the 4-bit base
    dense_before: Row | None

    @property
    def share(self) -> float | None:
        """The recovery; None where adapters gain nothing on the dense base either."""
        gain = self.dense["mean"] - self.before["mean"]
        recovered = self.dense["sign"] * gain > 0
        return float((self.adapted["mean"] - self.before["mean"]) / gain) if recovered else None

    @property
    def points(self) -> dict[str, float]:
        """What is drawn."""
        cells = (self.before, self.dense_before, self.adapted, self.dense)
        return {kind: cell["mean"] for kind, cell in zip(KINDS, cells, strict=True) if cell is not None}


def _recovery(view: View) -> Iterator[Figure]:
    """One figure, a row per 4-bit cell that has its like on a dense base and its base without adapters."""
    found = cases(view)
    if not found:
        return
    table = pd.DataFrame(
        [
            {"row": row_name(case.adapted), "what": kind, "value": value}
            for case in found
            for kind, value in case.points.items()
        ]
    )
    kinds = [kind for kind in KINDS if kind in set(table["what"])]
    scale = alt.Scale(domain=kinds)
    chart = (
        alt.Chart(table)
        .mark_point(filled=True, size=90, opacity=0.9)
        .encode(
            x=alt.X("value:Q", title=view.metric, scale=alt.Scale(zero=False), axis=alt.Axis(grid=True)),
            y=rows_axis(dict.fromkeys(table["row"])),
            yOffset=alt.YOffset("what:N", sort=kinds, scale=scale),
            color=alt.Color("what:N", sort=kinds, scale=scale),
            shape=alt.Shape("what:N", sort=kinds, scale=scale),
            tooltip=tooltips("row:N", "what:N", ("value:Q", "", ".4f")),
        )
        .properties(height=max(80, 60 * table["row"].nunique()))
    )
    yield view.figure(
        "recovery",
        "What adaptation brings back on a 4-bit base",
        finding=" ".join(_said(view, group) for group in _by_reference(found)),
        caption="Means over seeds. Recovery: what adapters gain on a 4-bit base over that base without "
        "adapters, as a share of what they gain on a dense base. The paper finds that adapters on all "
        "linear maps bring back what 4 bits lose.",
        chart=chart,
    )


def cases(view: View) -> list[Case]:
    """Every 4-bit cell with adapters that can be measured."""
    kept = ((storage_name(view.spec(cell)), cell) for cell in view.rows)
    rows = [(name, cell) for name, cell in kept if name]
    adapters = [(name, cell) for name, cell in rows if pd.notna(cell["r"])]
    out = []
    for name, cell in adapters:
        like = [c for other, c in adapters if other in DENSE and _alike(view, cell, c)]
        if name in DENSE or not like:
            continue
        dense = min(like, key=lambda c: c["variant"] != cell["variant"])
        before = _without(rows, name)
        if before is not None:
            dense_before = _without(rows, storage_name(view.spec(dense)), before["method"])
            out.append(Case(name, cell, dense, before, dense_before))
    return out


def _alike(view: View, one: Row, other: Row) -> bool:
    """Whether two cells have the same adapters."""
    deltas = {(view.spec(cell).get("variant_axes") or {}).get("delta") for cell in (one, other)}
    return len(deltas) == 1 and all(one[key] == other[key] for key in ("r", "alpha", "targets"))


def _without(rows: list[tuple[str, Row]], storage: str, *methods: str) -> Row | None:
    """The cell without adapters on a base so kept."""
    for method in methods or WITHOUT:
        for name, cell in rows:
            if (name, cell["method"]) == (storage, method):
                return cell
    return None


def _by_reference(found: list[Case]) -> list[list[Case]]:
    """Those that are measured by the same cell together."""
    groups: dict[str, list[Case]] = {}
    for case in found:
        groups.setdefault(case.dense["cell_key"] + case.before["method"], []).append(case)
    return list(groups.values())


def _said(view: View, group: list[Case]) -> str:
    """What adapters of one kind recover on each storage."""
    dense, floor = row_name(group[0].dense), WITHOUT[group[0].before["method"]]
    shares = [
        f"{case.share:.0%} on {case.storage}{_distance(view, case)}"
        for case in group
        if case.share is not None
    ]
    nothing = [case.storage for case in group if case.share is None]
    least = min(int(c["n"]) for case in group for c in (case.adapted, case.dense, case.before))
    text = f"Of the gain of {dense} over {floor}, adapters recover {', '.join(shares)}" if shares else ""
    if nothing:
        text += f"{'; ' if text else ''}{dense} gains nothing over {floor} on {', '.join(nothing)}"
    return f"{text} ({runs_text(least)} each{'' if least >= stats.FEWEST_SEEDS else ', so no verdict'})."


def _distance(view: View, case: Case) -> str:
    """How far the adapted 4-bit base ends from the adapted dense one, where seeds tell."""
    scores, dense = view.study.scores, case.dense["by_seed"]
    found = [
        scores[run] - scores[dense[seed]] for seed, run in case.adapted["by_seed"].items() if seed in dense
    ]
    if len(found) < stats.FEWEST_SEEDS:
        return ""
    return (
        f" ({np.mean(found):+.4f} from the dense base, {interval_text(stats.t_interval(np.array(found)), 4)})"
    )


def storage_name(spec: Mapping[str, Any]) -> str:
    """How a run kept its base: "fp32", "nf4 + DQ", "nf4"; "" where its spec does not say."""
    kind = str((spec.get("variant_axes") or {}).get("storage") or "")
    doubled = kind not in ("", *DENSE) and (spec.get("variant_options") or {}).get("double_quant", True)
    return kind + DOUBLE * bool(doubled)


def bits_per_weight(*, double: bool) -> dict[str, float]:
    """Bits per weight by component, without the offset of the tensor."""
    if not double:
        return {"codes": 4.0, "absmax": 32 / BLOCK}
    return {"codes": 4.0, "absmax": 8 / BLOCK, "absmax of absmax": 32 / (BLOCK * OUTER)}
