"""csv: the user's own text classification in a table: dataset=csv dataset.path=reviews.csv.

Tabs and semicolons separate as well as commas. The columns are named with dataset.text and dataset.label,
or guessed by their names. One file is split by a hash of each text; a folder, a glob or a list of files
named after train, validation (dev) and test is taken as these splits.
"""

from collections.abc import Mapping
from typing import Any

from experiments.data import _classification, _files, _tables
from experiments.data._tasks import RawTask

ENDINGS = (".csv", ".tsv")


def source(options: Mapping[str, Any]) -> str:
    """The hash of the files and of what says how to read them."""
    return _files.content(_files.locate(options, dataset="csv", endings=ENDINGS), options)


def read(options: Mapping[str, Any]) -> RawTask:
    """Read and check the table."""
    files = _files.locate(options, dataset="csv", endings=ENDINGS)
    tables = {split: _tables.read_csv(group) for split, group in files.items()}
    return _classification.build("csv", tables, files, options)
