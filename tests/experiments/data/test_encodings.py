"""From bytes to text: compressed files, encodings found out or given, and what is no text."""

import bz2
import codecs
import gzip
import io
import lzma
import re
import zipfile

import pandas as pd
import pytest

from experiments.errors import UserError


@pytest.fixture
def rows(sentences):
    """As a CSV, some of its texts with letters beyond ASCII."""
    return "text,label\n" + "".join(
        f"{text}{' café naïve' if n % 7 == 0 else ''},{label}\n" for n, (text, label) in enumerate(sentences)
    )


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-32-be", codecs.BOM_UTF32_BE),
        ("utf-16-le", b""),
        ("utf-16-be", b""),
        ("cp1252", b""),
        ("latin-1", b""),
    ],
)
def test_the_same_text_in_any_usual_encoding_is_the_same_data(tmp_path, read, rows, encoding, mark):
    (tmp_path / "plain.csv").write_text(rows, encoding="utf-8")
    (tmp_path / "x.csv").write_bytes(mark + rows.encode(encoding))
    task = read("csv", tmp_path / "x.csv")
    assert task.fingerprint == read("csv", tmp_path / "plain.csv").fingerprint
    said = [note for note in task.notes if "is read as" in note]
    assert bool(said) == (encoding != "utf-8")


def test_a_western_encoding_is_said_with_a_word_that_shows_it(tmp_path, read, rows):
    (tmp_path / "x.csv").write_bytes(rows.encode("cp1252"))
    (said,) = [note for note in read("csv", tmp_path / "x.csv").notes if "cp1252" in note]
    assert "'café'" in said and "guessed; dataset.encoding=... sets it" in said


@pytest.mark.parametrize("encoding", ["cp1251", "shift_jis", "koi8-r", "cp037"])
def test_another_alphabet_is_not_guessed(tmp_path, read, sentences, encoding):
    word = "тест" if encoding in ("cp1251", "koi8-r") else "カタカナ" if encoding == "shift_jis" else "word"
    text = "text,label\n" + "".join(f"{word * 3} {n},{label}\n" for n, (_, label) in enumerate(sentences))
    (tmp_path / "x.csv").write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match=r"x\.csv, line \d+: is not UTF-8 text.* dataset\.encoding=<name>"):
        read("csv", tmp_path / "x.csv")
    task = read("csv", tmp_path / "x.csv", encoding=encoding)
    assert all(word in text for rows in task.splits.values() for text in rows.texts)


def test_a_few_broken_bytes_in_utf_8_are_no_other_encoding(tmp_path, read, rows):
    data = rows.encode().replace(b"film 21 ", b"film 21\xff ")
    (tmp_path / "x.csv").write_bytes(data)
    line = data[: data.index(b"\xff")].count(b"\n") + 1
    with pytest.raises(UserError, match=f"line {line}: is UTF-8 text but for 1 broken byte"):
        read("csv", tmp_path / "x.csv")


def test_an_encoding_that_is_wrong_or_unknown_is_refused(tmp_path, read, rows):
    (tmp_path / "x.csv").write_bytes(rows.encode("cp1252"))
    with pytest.raises(UserError, match=r"is not utf-8 text: .* line 2"):
        read("csv", tmp_path / "x.csv", encoding="utf-8")
    with pytest.raises(UserError, match="encoding=utf-9 is no encoding"):
        read("csv", tmp_path / "x.csv", encoding="utf-9")


@pytest.mark.parametrize(
    ("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_compressed_files_are_read_alone_and_in_a_folder(tmp_path, read, rows, ending, pack):
    lines = rows.splitlines()
    (tmp_path / "plain.csv").write_text(rows, encoding="utf-8")
    whole = tmp_path / f"x.csv{ending}"
    whole.write_bytes(pack(rows.encode()))
    assert read("csv", whole).fingerprint == read("csv", tmp_path / "plain.csv").fingerprint
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, part in (("train", lines[1:100]), ("test", lines[100:])):
        (folder / f"{name}.tsv{ending}").write_bytes(
            pack("\n".join([lines[0], *part]).replace(",", "\t").encode())
        )
    assert len(read("csv", folder).splits["test"]) == len(lines) - 100
    cut = tmp_path / f"cut.csv{ending}"
    cut.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(UserError, match="is damaged"):
        read("csv", cut)


def test_parquet_is_read_with_the_names_of_its_classes(tmp_path, read, sentences, pairs_of):
    import datasets

    texts, labels = zip(*sentences, strict=True)
    pd.DataFrame({"text": texts, "label": labels}).to_parquet(tmp_path / "pandas.parquet")
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    hub = datasets.Dataset.from_dict({"text": texts, "label": labels}, features=datasets.Features(features))
    hub.to_parquet(tmp_path / "hub.parquet")
    for name in ("pandas", "hub"):
        assert pairs_of(read("csv", tmp_path / f"{name}.parquet")) == sorted(sentences)
    (tmp_path / "bad.parquet").write_bytes((tmp_path / "hub.parquet").read_bytes()[:-9])
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read("csv", tmp_path / "bad.parquet")


def archive(**files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, content in files.items():
            file.writestr(name.replace("__", "/"), content)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        (archive(xl__workbook="<x/>"), "is an Excel workbook. Save the sheet as CSV UTF-8"),
        (archive(train="a,b"), "is a zip archive. Unpack it"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "is an old Excel or Office file"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "is compressed with zstd"),
        (b"SQLite format 3\x00" + bytes(99), "is an SQLite database. Export"),
        (bytes(range(256)) * 9, "is a binary file, not a table of text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a pointer of Git LFS"),
        (b"<!DOCTYPE html>\n<html></html>\n", "is a web page, not a table"),
        (b"\x80\x04\x95\x10\x00\x00\x00", "is a pickle, which could run code"),
    ],
)
@pytest.mark.parametrize(
    ("dataset", "name"), [("csv", "x.csv"), ("jsonl", "x.jsonl"), ("instruct", "x.json")]
)
def test_what_is_no_text_is_named(tmp_path, read, dataset, name, data, advice):
    (tmp_path / name).write_bytes(data + b" ")
    with pytest.raises(UserError, match=re.escape(advice)):
        read(dataset, tmp_path / name)


@pytest.mark.parametrize("name", ["a::b.csv", "$HOME.csv", "~x.csv", "a b#c?.csv", "[1].csv", "é\u0301.csv"])
def test_a_files_name_is_only_a_name(tmp_path, read, rows, name):
    (tmp_path / name).write_text(rows, encoding="utf-8")
    assert sum(map(len, read("csv", tmp_path / name).splits.values())) == 140
