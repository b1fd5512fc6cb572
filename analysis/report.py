"""python -m analysis.report runs/STUDY: from the records of a study to one page, its tables and its figures.

    runs/STUDY/report/
        report.html      the page: one file that opens from disk and fetches nothing
        report.md        the same in text
        verdicts.csv     one row per comparison with the baseline, also as verdicts.tex
        results.csv      one row per cell, also as results.parquet and results.tex
        runs.csv         one row per run
        flips.csv        the test examples that flip between the baseline and the leading variant
        figures/         every figure as SVG, PDF and PNG, for print: 240 or 500 pt wide, with text of 8 pt

The report holds nothing but what the records say: equal records give equal bytes, whenever and wherever it is
built (of a PDF, whose parts the converter writes in any order, an equal drawing).
"""

import argparse
import contextlib
import gc
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from altair.utils.schemapi import debug_mode

from analysis import options
from analysis.figures import evidence_figures, overview_figures, paper_figures
from analysis.figures.figure import Figure
from analysis.foreign.independent import verdicts
from analysis.page import images, render, tables
from analysis.page.content import collect
from analysis.runs.cells import cells as cells_of
from analysis.runs.load import read
from experiments.errors import report_errors
from experiments.files import explained


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cycles, which takes a fifth of a report's time and finds nothing worth it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_uncollected()
def build(
    study_folder: Path | str,
    *,
    baseline: str = "lora",
    margin: float | None = None,
    pool: bool = False,
    metric: str | None = None,
    images_too: bool = True,
    width: int = images.PRINT[-1],
    texts: Path | None = None,
) -> Path:
    """Write the report of a study, whatever state it is in, and return the path of its page.

    Args:
        study_folder: runs/STUDY, holding one folder per run.
        baseline: the variant that the others are compared with.
        margin: differences below it do not matter, in units of the metric; None: 1% of its range.
        pool: take results of different code, versions, hardware or data for comparable.
        metric: compare by another than the primary metric; the report is then in report-<metric>/.
        images_too: whether to write every figure as SVG, PDF and PNG beside the page.
        width: of these images in pt, one of `images.PRINT`; their text has 8 pt.
        texts: a table that holds the texts of the test examples, for those that flip between two variants.
    """
    apart = f"-{metric.replace('/', '-')}" if metric else ""
    folder = Path(study_folder) / f"report{apart}"
    with images.Drawing(folder / "figures", width) if images_too else contextlib.nullcontext() as drawing:
        study = read(Path(study_folder), pool=pool, metric=metric)
        cells = cells_of(study)
        found = verdicts(study, cells, baseline=baseline, margin=margin)
        look = images.theme_of(set(cells["series"]), width)
        narrow = images_too and width < images.PRINT[-1]
        figures: list[Figure] = []
        whole = debug_mode(
            False
        )  # each figure is checked as a whole, not piece by piece: a third of the time
        with explained(folder), whole:
            folder.mkdir(exist_ok=True)
            repeated = len(cells) > 0 and cells["n"].max() > 1  # one seed explains no paper
            for figure in itertools.chain(
                overview_figures(study, cells),
                evidence_figures(cells, found.table),
                paper_figures(study, cells, baseline=found.baseline) if repeated else (),
            ):
                figures.append(figure)
                if drawing and not (narrow and figure.kind == "cost"):  # meanwhile
                    drawing.add(figure, look)
            if drawing and narrow:  # whose labels have less room
                room = ((width - 60) / images.SCALE, (width * 0.7 - 50) / images.SCALE)
                for figure in overview_figures(study, cells, room):
                    if figure.kind == "cost":
                        drawing.add(figure, look)
            content = collect(study, cells, found, figures, pool=pool, metric=metric, texts=texts)
            content["images"] = images_too
            tables.tables(study, cells, found, folder)
            tables.flips(content["flips"], folder)
            tables.write(folder / "report.md", render.markdown(content))
            tables.write(folder / "report.html", render.html(content))
    return folder / "report.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report", description="Write the report of a study."
    )
    options.compared(parser)
    parser.add_argument(
        "--no-images", action="store_true", help="leave out the SVG, PDF and PNG files of the figures"
    )
    parser.add_argument(
        "--width",
        type=int,
        choices=images.PRINT,
        default=images.PRINT[-1],
        help="of these files in pt: a column of a paper, or a page (default: 500); text has 8 pt",
    )
    parser.add_argument(
        "--texts", type=Path, help="a table with the texts of the test examples, for those that flip"
    )
    given = parser.parse_args(arguments)
    how = {"baseline": given.baseline, "margin": given.margin, "pool": given.pool, "metric": given.metric}
    how |= {"images_too": not given.no_images, "width": given.width, "texts": given.texts}
    return report_errors(lambda: print(build(given.study, **how)))


if __name__ == "__main__":
    sys.exit(main())
