"""jsonl: the user's own text classification, one JSON object per line.

Given by dataset=jsonl dataset.path=reviews.jsonl. Everything else is as for dataset=csv. Labels may be
numbers or words.
"""

from collections.abc import Mapping
from typing import Any

from experiments.data import _classification, _files, _reading
from experiments.data._tasks import RawTask


def source(options: Mapping[str, Any]) -> str:
    """The hash of the files and of what says how to read them."""
    return _files.content(_files.locate(options, dataset="jsonl", endings=_reading.OBJECTS), options)


def read(options: Mapping[str, Any]) -> RawTask:
    """Read and check the lines."""
    located = _files.locate(options, dataset="jsonl", endings=_reading.OBJECTS)
    tables = {split: _reading.read(files, options, form="objects") for split, files in located.splits.items()}
    return _classification.build("jsonl", tables, _files.used(located), options)
