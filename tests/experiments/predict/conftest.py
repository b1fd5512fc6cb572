"""What tests of predictions share."""

import csv
import io

import pytest


@pytest.fixture
def rows(capsys):
    """A function that gives the rows of the table that the command has printed."""
    return lambda: list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
