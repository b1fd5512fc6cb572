"""csv: the user's own text classification in a table: dataset=csv dataset.path=reviews.csv.

Tabs, semicolons and bars separate as well as commas, Parquet is read too, and so is what is compressed by
gzip, bzip2 or xz. How a table is written (separator, quoting, header, encoding) is found out and can be set;
see `_reading`. The columns are named with dataset.text and dataset.label, or guessed by their names; of a
pair of texts, or where dataset.text names several columns, each stands on a line of its own. One file is
split by a hash of each text; a folder, a glob or a list of files named after train, validation (dev) and
test is taken as these splits.

Files without columns are read where every line begins with its label as in TREC's "HUM:ind Who was ..." or
fastText's "__label__good ...", or where a file stands for a class: rt-polarity.pos and rt-polarity.neg.
"""

from collections.abc import Mapping
from typing import Any

from experiments.data import _classification, _files, _reading
from experiments.data._tasks import RawTask

_FORMS = {"csv": ("table", _reading.TABLES), "jsonl": ("objects", _reading.OBJECTS)}  # by the reader


def source(options: Mapping[str, Any]) -> str:
    """The hash of the files and of what says how to read them."""
    return _files.content(_located(options), options)


def read(options: Mapping[str, Any]) -> RawTask:
    """Read and check the table, or the objects of dataset=jsonl."""
    located, name = _located(options), _reader(options)
    tables = {
        split: _reading.read(files, options, form=_FORMS[name][0], classes=located.classes)
        for split, files in located.splits.items()
    }
    return _classification.build(name, tables, _files.used(located), options)


def _located(options: Mapping[str, Any]) -> _files.Located:
    name = _reader(options)
    return _files.locate(options, dataset=name, endings=_FORMS[name][1])


def _reader(options: Mapping[str, Any]) -> str:
    """csv or jsonl: the dataset's name, unless it has another one and says `reader`."""
    return str(options.get("reader") or options["name"])
