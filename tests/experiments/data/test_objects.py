"""JSON is read as it is written: dates, numbers, line ends, other shapes; and mistakes with their line."""

import json
import re

import pytest

from experiments.data._reading import read as read_table
from experiments.errors import UserError


@pytest.fixture
def columns(tmp_path):
    """The columns of a text in JSON."""

    def columns(text, name="x.jsonl"):
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        return dict(read_table([tmp_path / name], {}).columns)

    return columns


VALUES = [
    "2024-02-29", "2024-02-29T12:00:00Z", "12:30", "1e5", "0012", "NaN", "null", "true", "", " a ", "1,5",
    7, -3, 12345678901234567890123, 0.1, 1e300, True, False, None,
]  # fmt: skip


def test_values_stay_as_they_are(columns):
    found = columns("".join(json.dumps({"x": value, "y": 1}) + "\n" for value in VALUES))
    assert found["x"] == VALUES and [type(v) for v in found["x"]] == [type(v) for v in VALUES]


def test_dates_are_classes_and_completions(tmp_path, read):
    days = [f"2023-{n % 3 + 1:02}-0{n % 3 + 1}" for n in range(120)]
    (tmp_path / "x.jsonl").write_text(
        "".join(json.dumps({"text": f"t {n}", "label": day}) + "\n" for n, day in enumerate(days))
    )
    assert read("jsonl", tmp_path / "x.jsonl").labels == ("2023-01-01", "2023-02-02", "2023-03-03")
    (tmp_path / "y.jsonl").write_text(
        "".join(json.dumps({"prompt": f"t {n}", "completion": day}) + "\n" for n, day in enumerate(days))
    )
    turns = [turns for rows in read("instruct", tmp_path / "y.jsonl").splits.values() for turns in rows.turns]
    assert sorted(found[1][1] for found in turns) == sorted(days)


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\u0085", "\x0c", "\x0b", "\x1c"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_only_line_ends_end_a_line(columns, sign, end):
    row = json.dumps({"x": f"a{sign}b"}, ensure_ascii=sign < " ")
    assert columns(row + end + end + row)["x"] == [f"a{sign}b"] * 2
    with pytest.raises(UserError, match="line 3 is not JSON"):
        columns(row + end + row + end + '{"x": 1' + end, "y.jsonl")


def test_fields_that_some_rows_lack_are_none(columns):
    assert columns('{"a": 1}\n{"b": [2], "a": null}\n') == {"a": [1, None], "b": [None, [2]]}


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": "x", "b": 1}, {"a": "y", "b": 2}]',
        '[\n  {"a": "x", "b": 1},\n  {"a": "y", "b": 2}\n]\n',
        '{"a": {"0": "x", "1": "y"}, "b": {"0": 1, "1": 2}}',  # DataFrame.to_json()
        '{\n  "a": ["x", "y"],\n  "b": [1, 2]\n}',
        '\ufeff{"a": "x", "b": 1}\n{"a": "y", "b": 2}',
    ],
)
def test_other_shapes_of_the_same_rows(columns, text):
    assert columns(text) == {"a": ["x", "y"], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"x": 1}\n[1, 2]\n', "line 2 is '[1, 2]', not an object with named fields"),
        ('{"x": 1}\n"word"\n', "line 2 is 'word', not an object"),
        ('[{"x": 1}, 5]', "element 2 is '5', not an object"),
        ('{"x": 1}\n{"x": "' + "\\ud83d" + '"}\n', "line 2 holds half of a surrogate pair"),
        ('{"x": 1}\n' + '{"x": ' * 100_000, "line 2 is nested too deeply"),
        (
            '{\n "train": [["a", "b"]],\n "test": [["c", "d"], ["e", "f"]]\n}',
            "is one JSON object with the fields",
        ),
        ("text,label\na,b\n", "line 1 is not JSON"),
        ("{}\n{}\n", "has no fields in it"),
    ],
)
def test_what_is_no_table_is_named_with_its_line(columns, text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        columns(text)
