"""Files of somebody else's results to a study folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from analysis.foreign import peft, tables
from analysis.foreign.result import Result, complete, write
from experiments.errors import UserError

READERS: Mapping[str, Callable[[Path, str | None], list[Result]]] = {
    "peft": peft.read,
    "csv": tables.long_csv,
    "wandb": tables.wandb,
}
_ENDINGS = {"peft": (".json",), "csv": (".csv", ".tsv", ".txt"), "wandb": (".csv", ".json")}


def study(
    paths: Sequence[Path],
    form: str,
    out: Path | None = None,
    *,
    metric: str | None = None,
    examples: Mapping[str, int] | None = None,
) -> tuple[Path, list[str]]:
    """Write a study folder of the results in `paths`; the folder, and what was assumed of them.

    Args:
        paths: files, or folders whose files of the format's ending are read.
        form: one of READERS.
        out: the study folder; by default runs/NAME after the first path.
        metric: the score to read, where a file has several.
        examples: test examples by task, "" for every task.

    Raises:
        UserError: where a file is not of the format, or the folder holds runs already.
    """
    files = [file for path in paths for file in _files(path, form)]
    results = [result for file in files for result in READERS[form](file, metric)]
    metrics = sorted({result.metric for result in results})
    if len(metrics) > 1:
        raise UserError(
            f"the files have different metrics: {', '.join(metrics)}. Read one at a time with --metric."
        )
    notes = complete(results, examples or {})
    folder = out or Path("runs") / paths[0].resolve().stem
    write(results, folder, form)
    return folder, notes


def sizes(given: Sequence[str]) -> Mapping[str, int]:
    """Test examples by task, from words such as gsm8k=1319 or 1319, which is of every task."""
    sizes = {}
    for word in given:
        task, _, number = word.rpartition("=")
        if not number.isdecimal() or not int(number):
            raise UserError(f"--examples {word}: give a whole number as in 1319, or TASK=1319.")
        sizes[task] = int(number)
    return sizes


def _files(path: Path, form: str) -> list[Path]:
    if not path.exists():
        raise UserError(f"there is no file {path}.")
    if path.is_file():
        return [path]
    endings = _ENDINGS[form]
    found = sorted(file for file in path.iterdir() if file.suffix in endings)
    if not found:
        raise UserError(f"{path} holds no file that ends in {' or '.join(endings)}.")
    return found
