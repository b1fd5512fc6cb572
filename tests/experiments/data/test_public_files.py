"""Look-alikes of files that everybody brings: TREC, MR, SST-2, CoLA, RTE and MRPC as they are distributed."""

import pytest

from experiments.errors import UserError

WORDS = ("Rembrandt", "the Nile", "a quark", "café society", "Saturn", "jazz")


def test_trec_has_its_labels_at_the_head_of_its_lines(tmp_path, read, pairs_of):
    kinds = ("HUM:ind", "LOC:other", "DESC:def", "NUM:count")
    lines = [f"{kinds[n % 4]} What is {WORDS[n % 6]} , number {n} ?" for n in range(120)]
    for name, part in (("train_5500.label", lines[:90]), ("TREC_10.label", lines[90:])):
        (tmp_path / name).write_bytes("".join(f"{line}\n" for line in part).encode("latin-1"))
    path = {"train": str(tmp_path / "train_5500.label"), "test": str(tmp_path / "TREC_10.label")}
    task, fine = read("csv", path), read("csv", path, label="fine")
    assert task.labels == ("DESC", "HUM", "LOC", "NUM") and fine.labels == ("count", "def", "ind", "other")
    assert pairs_of(task) == sorted((line.split(" ", 1)[1], line.split(":")[0]) for line in lines)
    assert len(task.splits["test"]) == 30
    assert any("the form of TREC" in note and "dataset.label=fine" in note for note in task.notes)
    folder = read("csv", tmp_path)  # TREC_10 does not say that it is the test part
    assert sum(map(len, folder.splits.values())) == 90
    assert "ignored in the folder: TREC_10.label" in folder.notes


def test_fasttext_has_them_too(tmp_path, read, sentences, pairs_of):
    (tmp_path / "x.txt").write_text("".join(f"__label__{label} {text}\n" for text, label in sentences))
    assert pairs_of(read("csv", tmp_path / "x.txt")) == sorted(sentences)


def test_mr_has_a_file_per_class_and_quotes_and_western_letters(tmp_path, read, pairs_of):
    made = [
        (f'"{WORDS[n % 6]}" -- a film, n° {n}; \'nuff said', "pos" if n % 3 else "neg") for n in range(150)
    ]
    for label in ("pos", "neg"):
        lines = [text for text, found in made if found == label]
        (tmp_path / f"rt-polarity.{label}").write_bytes("\n".join(lines).encode("cp1252") + b" \n")
    (tmp_path / "rt-polaritydata.README.1.0.txt").write_text("about these files")
    task = read("csv", tmp_path)
    assert pairs_of(task) == sorted(made)
    assert "read rt-polarity.neg as class neg, rt-polarity.pos as class pos" in task.notes
    named = {"good": str(tmp_path / "rt-polarity.pos"), "bad": str(tmp_path / "rt-polarity.neg")}
    assert read("csv", named).labels == ("bad", "good")
    with pytest.raises(UserError, match=r"names a split 'tset'\. Did you mean 'test'"):
        read("csv", {"train": named["good"], "tset": named["bad"]})


@pytest.fixture
def glue(tmp_path):
    """A folder of three TSV files, the test part without labels: `glue(header, rows, of_test)`."""

    def glue(header, rows, test, *, mark="", name="{}.tsv"):
        for split, part in (("train", rows[: -len(rows) // 4]), ("dev", rows[-len(rows) // 4 :])):
            lines = ([header] if header else []) + part
            (tmp_path / name.format(split)).write_text(
                mark + "\n".join(map("\t".join, lines)) + "\n", "utf-8"
            )
        (tmp_path / name.format("test")).write_text(mark + "\n".join(map("\t".join, test)) + "\n", "utf-8")
        return tmp_path

    return glue


def check_glue(task, pairs_of, expected):
    assert pairs_of(task) == sorted(expected)
    assert len(task.splits["validation"]) == len(expected) // 4
    assert "the test file has no labels and is ignored" in task.notes


def test_sst_2_has_quotes_that_open_nothing(glue, read, pairs_of):
    made = [('" ' if n % 5 == 0 else "") + f"a `` {WORDS[n % 6]} '' number {n}" for n in range(200)]
    rows = [[text, str(n % 2)] for n, text in enumerate(made)]
    folder = glue(
        ["sentence", "label"], rows, [["index", "sentence"], *([str(n), f"t {n}"] for n in range(9))]
    )
    check_glue(read("csv", folder), pairs_of, [(text, label) for text, label in rows])


def test_cola_has_four_columns_and_no_header(glue, read, pairs_of):
    rows = [
        [f"{'abc'[n % 3]}{n % 7}", str(int(n % 4 > 0)), "" if n % 4 else "*", f'{WORDS[n % 6]} "slept {n}.']
        for n in range(160)
    ]
    folder = glue(None, rows, [["index", "sentence"], *([str(n), f"t {n}"] for n in range(9))])
    task = read("csv", folder)
    check_glue(task, pairs_of, [(row[3], row[1]) for row in rows])
    assert "text is the column '3' (guessed; dataset.text=... sets it)" in task.notes
    assert "label is the column '1' (guessed; dataset.label=... sets it)" in task.notes
    alone = read("csv", folder / "train.tsv", text="3", label="1")
    assert set(pairs_of(alone)) < set(pairs_of(task)) and alone.labels == ("0", "1")


def test_rte_has_two_texts(glue, read, pairs_of):
    names = ("entailment", "not_entailment")
    rows = [[str(n), f"{WORDS[n % 6]} fell, {n}.", f'"{n}" fell.', names[n % 2]] for n in range(120)]
    test = [["index", "sentence1", "sentence2"], *([str(n), f"t {n}", "u"] for n in range(9))]
    folder = glue(["index", "sentence1", "sentence2", "label"], rows, test)
    task = read("csv", folder)
    check_glue(task, pairs_of, [(f"{one}\n{two}", label) for _, one, two, label in rows])
    assert any(note.startswith("text is the columns 'sentence1' and 'sentence2'") for note in task.notes)
    assert read("csv", folder, text="sentence2").splits["train"].texts[0].count("\n") == 0


def test_mrpc_has_a_mark_and_unbalanced_quotes(glue, read, pairs_of):
    rows = [
        [str(n % 2), str(n), str(n + 900), f'" {WORDS[n % 6]} , " he said {n}', f'He said "{n} .']
        for n in range(160)
    ]
    header = ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
    folder = glue(header, rows, [header, *rows[:9]], mark="\ufeff", name="msr_paraphrase_{}.txt")
    expected = [(f"{row[3]}\n{row[4]}", row[0]) for row in rows]
    task = read("csv", folder)
    assert pairs_of(task) == sorted([*expected, *expected[:9]]) and len(task.splits["test"]) == 9


def test_a_test_part_with_other_labels_is_not_passed_over(glue, read):
    rows = [[f"text {n}", str(n % 2)] for n in range(80)]
    folder = glue(
        ["sentence", "label"], rows, [["sentence", "label"], *([f"t {n}", "maybe"] for n in range(9))]
    )
    with pytest.raises(UserError, match="test has labels that training never shows: maybe"):
        read("csv", folder)
