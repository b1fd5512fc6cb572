"""QLoRA's figures: bits, memory and error of a 4-bit base. Dettmers et al. 2023, arXiv:2305.14314."""

from collections.abc import Iterator, Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.figures.figure import Figure
from analysis.figures.papers.view import View, row_name, runs_text
from analysis.signatures.storage import bits_per_weight, memory, recovery

PAPER = "QLoRA"
FOUR_BIT = ("nf4", "fp4")
DOUBLE = ", double quantisation"
BARS = 12  # cells in the figure on memory
PARTS = [
    "base, quantised",
    "base, dense",
    "adapters and head",
    "gradients",
    "optimiser",
    "all else at the peak",
]


def figures(view: View) -> list[Figure]:
    """What the setting's runs can show of the paper."""
    return [*_bits(view), *_errors(view), *_memory(view), *_recovery(view)]


def _bits(view: View) -> Iterator[Figure]:
    """Bits per weight by component, for the storages of this study's runs."""
    rows, measured = [], {}
    for cell, _, found in view.with_arrays("storage/codes"):
        double = (view.spec(cell).get("variant_options") or {}).get("double_quant", True)
        kind = (view.spec(cell).get("variant_axes") or {}).get("storage") or "nf4"
        name = f"{kind}{DOUBLE if double else ''}"
        measured[name] = (
            8 * float(found["storage/codes"] + found["storage/scales"]) / float(found["storage/weights"])
        )
    if not measured:
        return
    kinds = sorted({name.removesuffix(DOUBLE) for name in measured})
    for name, double in [(f"{kind}{DOUBLE * twice}", twice) for kind in kinds for twice in (False, True)]:
        rows += [
            {"storage": name, "component": part, "bits": round(bits, 5), "place": place}
            for place, (part, bits) in enumerate(bits_per_weight(double=double).items())
        ]
    table = pd.DataFrame(rows)
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("bits:Q", title="Bits per weight", axis=alt.Axis(grid=True)),
            y=alt.Y("storage:N", title=None, sort=None, axis=alt.Axis(labelLimit=260, domain=False)),
            color=alt.Color("component:N", sort=list(dict.fromkeys(table["component"]))),
            order=alt.Order("place:Q"),
            tooltip=[alt.Tooltip("storage:N"), alt.Tooltip("component:N"), alt.Tooltip("bits:Q")],
        )
        .properties(height=50 + 60 * len(kinds))
    )
    text = " and ".join(f"{bits:.3f} bits per weight in {name}" for name, bits in sorted(measured.items()))
    formula = " and ".join(
        f"{sum(bits_per_weight(double=name.endswith(DOUBLE)).values()):.3f}" for name in sorted(measured)
    )
    yield view.figure(
        "bits_per_weight",
        PAPER,
        "Bits of a stored weight, by component",
        finding=f"The quantised maps of these runs take {text}, where the formula gives {formula}.",
        caption="4 bits of code, and the scales of blocks of 64: in 32 bits, or in 8 with a scale of their "
        "own for every 256 (double quantisation).",
        chart=chart,
    )


def _errors(view: View) -> Iterator[Figure]:
    for _, _, found in view.with_arrays("storage/error"):
        error, formats = found["storage/error"], [str(name) for name in found["storage/formats"]]
        if error.ndim != 2 or not error.size:
            continue
        table = pd.DataFrame(
            [
                {
                    "format": name.replace(" double", ", double"),
                    "error": float(f"{value:.5g}"),
                    "matrix": str(m),
                }
                for name, row in zip(formats, error, strict=True)
                for value, m in zip(row, found["storage/names"], strict=True)
            ]
        )
        order = list(dict.fromkeys(table["format"]))
        base = alt.Chart(table).encode(
            y=alt.Y("format:N", sort=order, title=None, axis=alt.Axis(grid=False, domain=False))
        )
        title = "Squared error over squared weight"
        chart = alt.layer(
            base.mark_point(filled=True, size=30, opacity=0.5).encode(
                x=alt.X(
                    "error:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(grid=True, format="~g")
                ),
                tooltip=[alt.Tooltip("format:N"), alt.Tooltip("matrix:N"), alt.Tooltip("error:Q")],
            ),
            base.mark_tick(thickness=2.5, size=16).encode(x=alt.X("median(error):Q", title=title)),
        ).properties(height=170)
        middle = table.groupby("format", sort=False)["error"].median()
        yield view.figure(
            "quantisation_error",
            PAPER,
            "What each 4-bit format loses before training",
            finding="Median relative error: "
            + ", ".join(f"{name} {value:.4f}" for name, value in middle.sort_values().items())
            + f" ({table['matrix'].nunique()} matrices of this model; exact, no chance in it).",
            caption="Each format on the same weights, in blocks of 64; double: the blocks' scales in 8 "
            "bits. A point per matrix, a bar at the median. For normal weights nf4 loses least.",
            chart=chart,
        )
        return


def _memory(view: View) -> Iterator[Figure]:
    rows = [row for _, cell in view.cells.head(BARS).iterrows() for row in _parts(view, cell)]
    table = pd.DataFrame(rows)
    if table.empty or not (table["part"] == PARTS[0]).any():
        return
    order = list(dict.fromkeys(table["row"]))
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("mb:Q", title="MB", axis=alt.Axis(grid=True)),
            y=alt.Y("row:N", sort=order, title=None, axis=alt.Axis(labelLimit=260, domain=False, grid=False)),
            color=alt.Color("part:N", sort=PARTS, scale=alt.Scale(domain=PARTS)),
            order=alt.Order("place:Q"),
            tooltip=[alt.Tooltip("row:N"), alt.Tooltip("part:N"), alt.Tooltip("mb:Q", format=".4~g")],
        )
        .properties(height=max(80, 30 * len(order)))
    )
    frozen = table[table["part"].isin(PARTS[:2])].groupby("row", sort=False)["mb"].sum()
    small, large = frozen.idxmin(), frozen.idxmax()
    yield view.figure(
        "memory_by_part",
        PAPER,
        "Memory while training, by part",
        finding=f"The frozen base takes {frozen[small]:.3g} MB in {small} and {frozen[large]:.3g} MB in "
        f"{large}, "
        f"{frozen[small] / frozen[large]:.0%} (counted from the stored tensors).",
        caption="Gradients in 32 bits and two averages of Adam for each trained parameter. All else is "
        "what the peak has beyond "
        "that: activations and, where the peak is that of a process on a CPU, its libraries and data.",
        chart=chart,
    )


def _parts(view: View, cell: pd.Series) -> Iterator[dict[str, Any]]:
    """The parts of one cell's memory in MB; nothing of a cell whose base was not measured."""
    if not cell["base_bytes"] > 0 or not cell["trainable_parameters"] >= 0:
        return
    run = next(iter(cell["by_seed"].values()))
    found: Mapping[str, np.ndarray] = view.arrays.of(run)
    quantised = float(found["storage/codes"] + found["storage/scales"]) if "storage/codes" in found else 0.0
    parts = memory(
        base=int(quantised),
        unquantised=int(cell["base_bytes"] - quantised),
        trained=int(cell["trainable_parameters"]),
        activations=0,
    )
    rest = cell["peak_bytes"] - sum(parts.values()) if cell["peak_bytes"] > 0 else 0
    values = [*list(parts.values())[:5], max(0, rest)]
    for place, (name, value) in enumerate(zip(PARTS, values, strict=True)):
        if value > 0:
            yield {"row": row_name(cell), "part": name, "mb": float(f"{value / 1e6:.4g}"), "place": place}


def _recovery(view: View) -> Iterator[Figure]:
    """How much of what the 16- or 32-bit adapters gain over the head alone those on a 4-bit base keep."""
    storages = {i: (view.spec(c).get("variant_axes") or {}).get("storage") for i, c in view.cells.iterrows()}
    heads = view.cells[view.cells["method"] == "probe"]
    four = view.cells[[storages[i] in FOUR_BIT and pd.notna(c["r"]) for i, c in view.cells.iterrows()]]
    dense = view.cells[
        [storages[i] in ("fp32", "bf16") and pd.notna(c["r"]) for i, c in view.cells.iterrows()]
    ]
    rows, said = [], []
    for i, cell in four.iterrows():
        floor = heads[[storages[head] == storages[i] for head in heads.index]]
        delta = view.spec(cell)["variant_axes"].get("delta")
        same = [
            c
            for _, c in dense.iterrows()
            if (c["r"], c["targets"]) == (cell["r"], cell["targets"])
            and view.spec(c)["variant_axes"].get("delta") == delta
        ]
        if not same or floor.empty or same[0]["mean"] == floor.iloc[0]["mean"]:
            continue
        share = recovery(same[0]["mean"], floor.iloc[0]["mean"], cell["mean"])
        values = {
            "head alone, 4-bit base": floor.iloc[0]["mean"],
            "adapters, 4-bit base": cell["mean"],
            "adapters, dense base": same[0]["mean"],
        }
        rows += [{"row": row_name(cell), "what": name, "value": value} for name, value in values.items()]
        n = min(int(cell["n"]), int(same[0]["n"]), int(floor.iloc[0]["n"]))
        said.append(
            f"{row_name(cell)} recovers {share:.0%} of the gain of {row_name(same[0])} over the head alone "
            f"({runs_text(n)} each{'' if n > 2 else ', so no verdict'})"
        )
    if not rows:
        return
    table = pd.DataFrame(rows)
    kinds = list(dict.fromkeys(table["what"]))
    chart = (
        alt.Chart(table)
        .mark_point(filled=True, size=90, opacity=1)
        .encode(
            x=alt.X("value:Q", title=view.metric, scale=alt.Scale(zero=False), axis=alt.Axis(grid=True)),
            y=alt.Y(
                "row:N",
                sort=list(dict.fromkeys(table["row"])),
                title=None,
                axis=alt.Axis(labelLimit=260, domain=False),
            ),
            color=alt.Color("what:N", sort=kinds, scale=alt.Scale(domain=kinds)),
            shape=alt.Shape("what:N", sort=kinds, scale=alt.Scale(domain=kinds)),
            tooltip=[alt.Tooltip("row:N"), alt.Tooltip("what:N"), alt.Tooltip("value:Q", format=".4f")],
        )
        .properties(height=max(70, 40 * table["row"].nunique()))
    )
    yield view.figure(
        "recovery",
        PAPER,
        "What adaptation brings back on a 4-bit base",
        finding="; ".join(said) + ".",
        caption="Means over seeds. The paper finds that adapters on all linear maps bring back what 4 bits "
        "lose.",
        chart=chart,
    )
