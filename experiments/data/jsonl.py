"""jsonl: the user's own text classification, one JSON object per line.

Given by dataset=jsonl dataset.path=reviews.jsonl. Everything else is as for dataset=csv. Labels may be
numbers or words.
"""

from collections.abc import Mapping
from typing import Any

from experiments.data import _classification, _files, _tables
from experiments.data._tasks import RawTask

ENDINGS = (".jsonl", ".json", ".ndjson")


def source(options: Mapping[str, Any]) -> str:
    """The hash of the files and of what says how to read them."""
    return _files.content(_files.locate(options, dataset="jsonl", endings=ENDINGS), options)


def read(options: Mapping[str, Any]) -> RawTask:
    """Read and check the lines."""
    files = _files.locate(options, dataset="jsonl", endings=ENDINGS)
    tables = {split: _tables.read_json(group) for split, group in files.items()}
    return _classification.build("jsonl", tables, files, options)
