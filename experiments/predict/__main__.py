"""Answer texts with finished runs, or adapters of PEFT: several at once on one loaded base.

python -m experiments.predict runs/demo/RUN_ID --input texts.txt
python -m experiments.predict runs/demo/* --input reviews.csv --text review --output answers.csv
python -m experiments.predict path/to/peft_adapter --model roberta-base --labels no,yes --input -

The input is a text per line (.txt, or - for the standard input) or a table (.csv, .tsv, .parquet, .jsonl). It
is read as training read its data: the same columns, the same options, the same prompts. The other columns are
kept in the output. Text is generated greedily, whatever the model's generation config says.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.artifacts import open_sources, source_arguments
from experiments.errors import UserError, report_errors
from experiments.predict import BATCH, Predictor
from experiments.predict._input import FORMATS as INPUTS
from experiments.predict._input import read_input
from experiments.predict._output import FORMATS, format_of, table, write

_SWITCH = {"auto": None, "true": True, "false": False}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("run", type=Path, nargs="+", help="the folder of a finished run, or of an adapter")
    made.add_argument("--input", required=True, help="a file, or - for the standard input")
    made.add_argument("--input-format", choices=INPUTS, help="default: by the file's ending, else txt")
    made.add_argument("--text", help="column of the texts (default: as in training, else the usual names)")
    for name in ("separator", "encoding"):
        made.add_argument(
            f"--{name}", help=f"of the input, as dataset.{name}; auto finds it out (default: as in training)"
        )
    for name in ("header", "quoting"):
        made.add_argument(
            f"--{name}", choices=_SWITCH, help=f"of the input, as dataset.{name} (default: as in training)"
        )
    made.add_argument("--output", help="a .csv or .jsonl file (default: CSV on the standard output)")
    made.add_argument("--output-format", choices=FORMATS)
    made.add_argument(
        "--batch-size", type=int, default=BATCH, help="texts of each run in a forward pass (%(default)s)"
    )
    made.add_argument("--max-new-tokens", type=int, default=64, help="for text generation (%(default)s)")
    made.add_argument(
        "--merged", action="store_true", help="merge each run first: no added latency, no sharing"
    )
    source_arguments(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer; the exit code."""
    options = parser().parse_args(arguments)
    return report_errors(lambda: _predict(options))


def _predict(options: argparse.Namespace) -> None:
    for name in ("batch_size", "max_new_tokens"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected 1 or more")
    form = format_of(options.output, options.output_format)
    sources, beside = open_sources(options.run, model=options.model, labels=options.labels)
    for path in beside:
        print(f"note: {path} is not a run and is ignored", file=sys.stderr)
    for note in (note for source in sources for note in source.notes):
        print(f"note: {note}", file=sys.stderr)
    asked, empty, notes = read_input(
        options.input, kind=sources[0].kind, form=options.input_format, column=options.text,
        options={**sources[0].dataset_options, **_reading(options)},
    )  # fmt: skip
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    started = time.perf_counter()
    predictor = Predictor(sources, merged=options.merged)
    loaded = time.perf_counter()
    answers = predictor(
        [one.text for one in asked], batch_size=options.batch_size, max_new_tokens=options.max_new_tokens
    )
    text = table(asked, answers, form)
    if options.output:
        write(text, Path(options.output))
    else:
        sys.stdout.write(text)
    print(
        _summary(predictor, len(asked), empty, loaded - started, time.perf_counter() - loaded),
        file=sys.stderr,
    )


def _reading(options: argparse.Namespace) -> dict[str, Any]:
    """What the command says of the input's form."""
    given = {name: getattr(options, name) for name in ("separator", "encoding", "header", "quoting")}
    return {name: _SWITCH.get(value, value) for name, value in given.items() if value is not None}


def _summary(predictor: Predictor, texts: int, empty: int, loading: float, answering: float) -> str:
    packs = len(list(predictor.packs()))
    passed = f" ({empty} empty skipped)" if empty else ""
    return (
        f"base {predictor.base.info.name}: runs {len(predictor.sources)}, packs {packs}, "
        f"texts {texts}{passed}; loaded in {loading:.1f} s, answered in {answering:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
