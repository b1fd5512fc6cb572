"""How every figure looks: a configuration for light pages and paper, one for dark pages, and a palette.

The first colour is neutral and goes to the baseline; the others are told apart with any common colour vision
(after Okabe and Ito, shifted for contrast on each ground), and no figure relies on colour alone: shapes or
dashes repeat it.
"""

from typing import Any

LIGHT = (
    "#4a5260", "#0072b2", "#cc4a00", "#00805e", "#a8498c",
    "#8a6a00", "#1a9cc4", "#7a4fd0", "#b23a48", "#5b7a1f",
)  # fmt: skip
DARK = (
    "#b6bfcc", "#5ab4f0", "#ff9052", "#45cfa0", "#eb9bd2",
    "#e6c14d", "#86e0f7", "#b99cff", "#ff8f9b", "#b4d66a",
)  # fmt: skip
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
FONT = "Inter, 'Segoe UI', 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"


def config(*, dark: bool = False, columns: int = 6, font: str = FONT, scale: float = 1.0) -> dict[str, Any]:
    """The Vega-Lite configuration of one theme.

    Args:
        dark: for dark pages.
        columns: of the legend.
        font: of all text.
        scale: of text and of the distances around it.
    """
    ink, soft, grid = ("#e7eaef", "#a3acba", "#2b323c") if dark else ("#1c2330", "#5c6675", "#e6e9ee")
    text = {
        "labelColor": soft, "titleColor": ink, "labelFont": font, "titleFont": font,
        "labelFontSize": 12 * scale, "titleFontSize": 12 * scale, "titleFontWeight": 600,
    }  # fmt: skip
    axis = {
        "gridColor": grid, "domainColor": grid, "tickColor": grid, "titlePadding": 10 * scale,
        "labelPadding": 6 * scale,
    }  # fmt: skip
    above = {
        "ticks": False, "domain": False, "titleAnchor": "end", "titleAngle": 0, "titleAlign": "left",
        "titleY": -14 * scale, "titleX": 0, "titleBaseline": "bottom",
    }  # fmt: skip
    legend = {
        "orient": "top", "title": None, "symbolSize": 80 * scale**2, "symbolStrokeWidth": 2,
        "columnPadding": 16 * scale, "symbolOpacity": 1, "columns": columns, "offset": 34 * scale,
        "labelLimit": 260,
    }  # fmt: skip
    header = {"title": None, "labelFontWeight": 600, "labelColor": ink, "labelPadding": 28 * scale}
    return {
        "background": "transparent" if dark else None,
        "font": font,
        "range": {"category": list(DARK if dark else LIGHT), "symbol": list(SHAPES)},
        "view": {"stroke": None},
        "axis": text | axis,
        "axisX": {"grid": False},
        "axisY": above,
        "legend": text | legend,
        "header": text | header,  # above axis titles
        "text": {"font": font, "color": soft, "fontSize": 12 * scale if scale < 1 else 11.5},
        "rule": {"color": soft},
        "line": {"strokeWidth": 2 * scale},
        "point": {"strokeWidth": 1.6 * scale},
    }
