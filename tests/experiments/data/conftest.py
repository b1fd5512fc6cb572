"""What tests of data share."""

import pytest

from experiments import data

# 140 sentences without quotation marks, commas or tabs, of two classes
SENTENCES = [
    (f"film {i} was {'fine' if i % 2 else 'dull'} indeed", "pos" if i % 2 else "neg") for i in range(140)
]


@pytest.fixture
def sentences():
    """(text, class) of 140 sentences without quotation marks, commas or tabs."""
    return list(SENTENCES)


@pytest.fixture
def read(spec_of):
    """The task in a file or folder: `read("csv", path, label="stars")`."""

    def read(dataset, path, **options):
        place = path if isinstance(path, dict | list) else str(path)
        return data.read(spec_of(dataset=dataset, path=place, **options))

    return read


@pytest.fixture
def pairs_of():
    """(text, name of the class) of every row of a task, in order of the text."""

    def pairs(task):
        found = [
            (text, task.labels[label])
            for rows in task.splits.values()
            for text, label in zip(rows.texts, rows.labels, strict=True)
        ]
        return sorted(found)

    return pairs
