"""Functions and the first sentences of their docstrings."""

import pytest

from experiments import data
from experiments.data import docstrings

CODE = '''
def area(radius, unit="m"):
    """Area of a circle in square units, e.g. of a pond. It is positive.

    More.
    """
    # a comment
    scale = {"m": 1}[unit]
    return 3.14 * radius**2 * scale

def _private(x):
    """A private name is left out here."""
    y = x
    return y

class Thing:
    def method(self):
        """Deprecated in favour of something."""
        a = 1
        return a
'''


@pytest.fixture
def one_file(tmp_path, monkeypatch):
    path = tmp_path / "m.py"
    path.write_text(CODE)
    return path


def test_a_function_is_shown_without_its_docstring_and_comments(one_file):
    [(code, sentence)] = docstrings._functions(one_file, 600)
    assert sentence == "Area of a circle in square units, e.g. of a pond."
    assert code.startswith("def area(radius, unit='m'):\n") and code.endswith(
        "return 3.14 * radius ** 2 * scale"
    )
    assert "circle" not in code and "comment" not in code
    assert list(docstrings._functions(one_file, 20)) == []


def test_four_different_sentences_to_choose_from(tmp_path, monkeypatch):
    words = ["alpha", "beta", "gamma", "delta", "eta"]
    source = "".join(
        f'def f{i}(x):\n    """The {words[i % 5]} of number {i} there."""\n    y = x + {i}\n    return y\n\n'
        for i in range(200)
    )
    (tmp_path / "m.py").write_text(source)
    monkeypatch.setattr(docstrings, "_files", lambda: [tmp_path / "m.py"])
    raw = docstrings.read({"form": "choice"})
    for part in raw.splits.values():
        for turns, options, label in zip(part.turns, part.options, part.labels, strict=True):
            number = turns[0][1].split("(")[0].removeprefix("def f")
            assert options[label].endswith(f"number {number} there.") and len(set(options)) == 4
        assert len(set(part.labels)) == 4
    written = docstrings.read({"form": "completion"})
    assert sum(map(len, written.splits.values())) == 200
    assert data.RawTask.from_plain(written.as_plain()).sha256 == written.sha256
