"""Export a finished run, or an adapter of PEFT, with the proof that it still says the same.

python -m experiments.export runs/demo/RUN_ID --to peft OUT
python -m experiments.export runs/demo/RUN_ID --to merged OUT
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.artifacts import check_labels, open_source, source_arguments
from experiments.errors import UserError, report_errors
from experiments.export import DTYPES, FIDELITY, FORMS, FOUR_BIT, Options, export


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("run", type=Path, help="the folder of a finished run, or of an adapter")
    made.add_argument("out", type=Path, help="the folder to write; it must not hold anything yet")
    made.add_argument(
        "--to",
        choices=FORMS,
        required=True,
        help="peft: an adapter that PEFT loads; merged: a plain Hugging Face checkpoint; dense-delta: W' - W "
        "of every changed parameter",
    )
    made.add_argument(
        "--form", choices=["lora", "adalora"],
        help="peft: AdaLoRA as the ranks that are left (lora, default) or as PEFT's own AdaLoRA",
    )  # fmt: skip
    made.add_argument(
        "--dtype",
        choices=DTYPES,
        help="merged: type of the weights (default: fp32, or bf16 on a 4- or 16-bit base)",
    )
    made.add_argument(
        "--requantise",
        metavar="|".join(FOUR_BIT),
        help="merged: put the merged weights back into 4 bits; the error is shown",
    )
    source_arguments(made)
    made.add_argument("--replace", action="store_true", help="put the export in the place of an earlier one")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Export; the exit code."""
    options = parser().parse_args(arguments)
    return report_errors(lambda: _export(options))


def _export(options: argparse.Namespace) -> None:
    for flag, value, needs in (
        ("--form", options.form, "peft"),
        ("--dtype", options.dtype, "merged"),
        ("--requantise", options.requantise, "merged"),
    ):
        if value and options.to != needs:
            raise UserError(f"{flag} says how to write --to {needs}, but --to {options.to} was given")
    if options.requantise not in (None, *FOUR_BIT):
        raise UserError(
            f"--requantise {options.requantise}: transformers loads {' and '.join(FOUR_BIT)} as bitsandbytes "
            "has them, and no other 4 bits. Take one of these, or leave it out for 16 bits"
        )
    check_labels([options.run], options.labels)
    source = open_source(options.run, model=options.model, labels=options.labels)
    for note in source.notes:
        print(f"note: {note}", file=sys.stderr)
    how = Options(options.form, options.dtype, options.requantise, options.replace)
    _show(export(source, options.to, options.out, how))
    print(f"\n{options.out} holds {', '.join(sorted(p.name for p in options.out.iterdir()))}")
    print(_use(options, source.kind, source.base_name, len(source.labels)))


def _show(fidelity: dict[str, Any]) -> None:
    print(f"Compared with {fidelity['reference']}, on {fidelity['inputs']} ({FIDELITY}):")
    for entry in fidelity["compared"]:
        if "skipped" in entry:
            print(f"  {entry['model']}: not compared, {entry['skipped']}")
            continue
        more = f", weights off by {entry['weight_error']:.1%} on average" if "weight_error" in entry else ""
        print(
            f"  {entry['model']}: logits differ by {entry['max_relative_difference']:.1e}, same predictions "
            f"{entry['same_predictions']}{more}"
        )


def _use(options: argparse.Namespace, kind: str, base: str, labels: int) -> str:
    """The lines that load it elsewhere."""
    auto = "SequenceClassification" if kind == "classification" else "CausalLM"
    if options.to == "merged":
        return f"\n  AutoModelFor{auto}.from_pretrained({str(options.out)!r})"
    if options.to == "peft":
        count = f", num_labels={labels}" if labels else ""
        return (
            f"\n  model = AutoModelFor{auto}.from_pretrained({base!r}{count})"
            f"\n  model = PeftModel.from_pretrained(model, {str(options.out)!r})"
        )
    return (
        "\n  base + delta = the trained weights, name by name; what head.safetensors holds goes in as it is"
    )


if __name__ == "__main__":
    sys.exit(main())
