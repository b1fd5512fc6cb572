"""How a table is written is found out: separators, quotes, headers, columns without a name."""

import io
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.data._reading import _delimited
from experiments.errors import UserError


@pytest.fixture
def table(tmp_path):
    r"""The columns of a text, whether they have names, and the notes: `table("a,b\\n1,2\\n", "x.csv")`."""

    def table(text, name="x.csv", **options):
        return _delimited.read(text, tmp_path / name, options, {"text", "label", "review"})

    return table


# --- columns without a name


@pytest.mark.parametrize(
    "text",
    [
        ",text,label\n0,a b,x\n1,c,y\n",  # DataFrame.to_csv
        "text,label,\na b,x,\nc,y,\n",  # a separator at the end of every line
        "text,label\na b,x,\nc,y,\n",  # of every line but the header
        "text,label,\na b,x\nc,y\n",  # of the header alone
        "text,,label,  \na b,,x,\nc,junk,y,\n",
        '"text","label"\n"1","a b","x"\n"2","c","y"\n',  # write.table of R
        ",text,label\n,a b,x\n,c,y\n",
    ],
)
def test_a_column_without_a_name_is_passed_over(table, text):
    columns, named, notes = table(text)
    assert columns == {"text": ["a b", "c"], "label": ["x", "y"]} and named
    assert any("without a name" in note for note in notes) or ",," not in text + ","


def test_a_row_that_is_wider_by_more_than_a_separator_is_an_error(table):
    for row in ("a,x,,", "a,x,1", "a"):
        with pytest.raises(UserError, match=r"x\.csv, line 3: \d fields?"):
            table(f"text,label\nb,y\n{row}\n")


def test_an_index_like_that_of_r_counts_its_rows(table):
    with pytest.raises(UserError, match="line 2: 3 fields, but the header"):
        table("text,label\nten, twenty,x\nthree, four,y\n")


# --- separators


@pytest.mark.parametrize("sign", [",", "\t", ";", "|"])
@pytest.mark.parametrize("others", ["", ",", ";|", ",;\t|"])
def test_the_separator_is_that_by_which_all_rows_fit(table, sign, others):
    others = others.replace(sign, "")
    header = sign.join(["review" + others, "label"])
    text = "\n".join([header, *(sign.join([f"a{others * i}", f"{i % 2}"]) for i in range(6))])
    columns, _, _ = table(text)
    assert columns == {
        "review" + others: [f"a{others * i}" for i in range(6)],
        "label": ["0", "1"] * 3,
    }


def test_where_two_separators_fit_the_tab_wins(table):
    columns, _, _ = table("ham\twell, ok\nspam\twin, now\nham\tyes, no\n", "x.txt")
    assert columns == {"0": ["ham", "spam", "ham"], "1": ["well, ok", "win, now", "yes, no"]}


def test_blank_lines_are_no_rows(table):
    assert table("\ntext,label\n  \na,1\n\n\t\nb,0\n \n")[0] == {"text": ["a", "b"], "label": ["1", "0"]}


def test_a_header_among_the_rows_is_remarked_on(table):
    columns, _, (note,) = table("text,label\na,1\ntext,label\nb,0\n")
    assert columns["label"] == ["1", "label", "0"]
    assert "the header is repeated among the rows 1 times" in note


def test_in_a_tsv_file_the_tab_wins(table):
    columns, _, _ = table("review, raw\tlabel, en\na, b\t1, x\n", "x.tsv")
    assert columns == {"review, raw": ["a, b"], "label, en": ["1, x"]}
    assert table("text,label\na,1\n", "x.tsv")[0] == {"text": ["a"], "label": ["1"]}  # it has none


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("semicolon", "text;label\na, b;1\n"),
        (";", "text;label\na, b;1\n"),
        ("bar", "text|label\na, b|1\n"),
        ("||", "text||label\na, b||1\n"),
        (" # ", "text # label\na, b # 1\n"),
    ],
)
def test_a_separator_that_is_given_is_taken(table, given, text):
    assert table(text, separator=given)[0] == {"text": ["a, b"], "label": ["1"]}


def test_a_space_separates_once(table):
    columns, named, _ = table("1 a, b c\n0 d\n1 e f\n", separator="space")
    assert columns == {"0": ["1", "0", "1"], "1": ["a, b c", "d", "e f"]} and not named


def test_what_excel_says_of_its_separator_is_no_row(table):
    assert table("sep=;\r\ntext;label\r\na,b;1\r\n")[0] == {"text": ["a,b"], "label": ["1"]}


def test_another_separator_is_said(table):
    (note,) = table("text;label\na;1\n")[2]
    assert "separated by semicolon (dataset.separator=... sets it)" in note
    assert table("text;label\na;1\n", separator=";")[2] == []


# --- quotes

ODD = ['"Very" well', '"open', 'close"', 'in"side', '"', '"both"', '""']


def test_in_a_tsv_file_quotes_are_plain_characters(table):
    text = "text\tlabel\n" + "".join(f"{cell}\t{n % 2}\n" for n, cell in enumerate(ODD))
    columns, _, notes = table(text, "x.tsv")
    assert columns["text"] == ODD
    assert "quotation marks are part of the text" in notes[0]


def test_two_rows_between_two_quotes_stay_two(table):
    rows = [f"row {n}" for n in range(40)]
    rows[3], rows[21] = '"opens', 'closes"'
    text = "text\tlabel\n" + "".join(f"{cell}\t{n % 3}\n" for n, cell in enumerate(rows))
    assert table(text, "x.tsv")[0]["text"] == rows


def test_a_tsv_that_pandas_wrote_keeps_its_texts(table):
    texts = ['He said "no"', "a\ttab", "two\nlines", "plain", 'odd " one']
    for quoting in (0, 1):  # QUOTE_MINIMAL, QUOTE_ALL
        text = pd.DataFrame({"text": texts, "label": list("aabba")}).to_csv(
            sep="\t", index=False, quoting=quoting
        )
        assert table(text, "x.tsv")[0]["text"] == texts


def test_whether_quotes_enclose_can_be_said(table):
    text = 'text\tlabel\n"a"\t1\n"b"\t0\n'
    assert table(text, "x.tsv", quoting=False)[0]["text"] == ['"a"', '"b"']
    assert table(text, "x.tsv", quoting=True)[0]["text"] == ["a", "b"]
    assert table('text,label\n"a,1\n"b,0\n', quoting=False)[0]["text"] == ['"a', '"b']


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([*["ok,1"] * 8, '"never closed,1', *["ok,0"] * 5], 10),
        (["ok,1", '"two\nlines",1', '"open,0', "ok,1"], 5),
        (["ok,1", '"two\nlines","open', "ok,1"], 4),
        (["ok,1", "", '"good" film,0', "ok,1"], 4),
    ],
)
def test_a_quote_that_encloses_nothing_is_named_by_its_own_line(table, rows, line):
    with pytest.raises(UserError, match=rf"x\.csv, line {line}: (not valid CSV|\d fields)"):
        table("\n".join(["text,label", *rows]) + "\n")


def test_advice_for_plain_quotes_is_given_where_it_helps(table):
    with pytest.raises(UserError, match=r"dataset\.quoting=false"):
        table('text,label\n"open,0\nok,1\n')
    with pytest.raises(UserError) as caught:
        table('text,label\n"a, b" c,0\nok,1\n')
    assert "quoting" not in str(caught.value)


def test_whole_rows_inside_a_cell_are_remarked_on(table):
    text = 'text,label\n"open,0\nb,1\nc,0\nd",1\n"a, real\nbreak",0\n'
    columns, _, notes = table(text)
    assert len(columns["text"]) == 2
    assert [note for note in notes if "line 2: a quoted cell holds whole rows (1 such cells)" in note]
    assert not table('text,label\n"a\nb\nc\nd",1\n')[2]


# --- headers


@pytest.mark.parametrize(
    "first", ["text,label", "Review,x", "foo,bar", "0,1", ",0,1", "a long sentence,rating of it"]
)
def test_a_line_of_names_is_a_header(table, first):
    body = "".join(f"{',' * (first.count(',') - 1)}t{i},{i % 2}\n" for i in range(9))
    columns, named, _ = table(f"{first}\n{body}")
    assert named and all(len(cells) == 9 for cells in columns.values())


def test_a_first_line_with_a_value_of_its_column_is_none(table):
    columns, named, notes = table("good film,1\nbad film,0\nother,1\n")
    assert not named and columns == {"0": ["good film", "bad film", "other"], "1": ["1", "0", "1"]}
    assert "the first line is no header" in notes[0]


def test_whether_there_is_a_header_can_be_said(table):
    assert table("text,label\na,1\n", header=False)[0] == {"0": ["text", "a"], "1": ["label", "1"]}
    assert table("x,1\ny,1\nz,1\n", header=True)[0] == {"x": ["y", "z"], "1": ["1", "1"]}


def test_a_header_twice_in_a_table_is_refused_only_among_names(table):
    with pytest.raises(UserError, match="names a column twice: text, text"):
        table("text,text\na,b\n")
    assert list(table(",text,,label\n1,a,2,b\n")[0]) == ["text", "label"]


# --- against pandas

CELL = st.text(st.sampled_from("ab ,;\t|\"'\n\ré\u2028\u0085\x0c"), max_size=12)


@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6), st.sampled_from([",", ";", "|"]))
def test_what_pandas_writes_and_reads_is_read_alike(tmp_path_factory, rows, sign):
    written = pd.DataFrame(rows, columns=["text", "label"]).to_csv(index=False, sep=sign, quoting=1)
    theirs = pd.read_csv(io.StringIO(written), sep=sign, dtype=str, keep_default_na=False)
    ours, _, _ = _delimited.read(
        written, tmp_path_factory.getbasetemp() / "x.csv", {"separator": sign}, {"text", "label"}
    )
    assert ours == {name: theirs[name].tolist() for name in ("text", "label")}


def test_json_is_no_table(table):
    for text in ('{"text": "a", "label": 1}\n', '[{"a": 1}]', "[\n1\n]"):
        with pytest.raises(UserError, match=re.escape("looks like JSON")):
            table(text)
    assert table("[sic] text,label\na,b\n")[1]
