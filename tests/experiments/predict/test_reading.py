"""Predictions read texts, prompts and chats as training reads them, keep other columns, and are greedy."""

import csv
import io
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from experiments import data
from experiments.artifacts import open_source
from experiments.data._chat import render
from experiments.errors import UserError
from experiments.predict import Predictor
from experiments.predict.__main__ import main
from experiments.predict._input import read_input

SIGNS = st.text(st.sampled_from(list('ab \t",;|\n\r\u2028\u0085\x0c\x1fé中</s>[SEP]1.')), max_size=14)
TEXT = SIGNS.filter(str.strip)
LABEL = st.sampled_from(["no", "yes", "nan"])
LAX = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write_table(folder, name, columns, sign=","):
    """A table with quotes around every cell."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=sign, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    (folder / name).write_bytes(out.getvalue().encode())
    return folder / name


def write_objects(folder, name, columns):
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / name).write_bytes(text.encode())
    return folder / name


def write(folder, form, columns):
    """One of the forms of a table, the same cells in each."""
    if form == "jsonl":
        return write_objects(folder, "x.jsonl", columns)
    return write_table(folder, f"x.{form}", columns, "\t" if form == "tsv" else ",")


def trained(dataset, path, options):
    """The rows that training reads, whatever their split."""
    data._read.cache_clear()
    raw = data.read_options(dataset, {**options, "path": str(path)})
    return [row for rows in raw.splits.values() for row in (rows.texts or rows.turns)]


@LAX
@given(
    rows=st.lists(st.tuples(SIGNS, LABEL), min_size=3, max_size=8),
    form=st.sampled_from(["csv", "tsv", "jsonl"]),
    name=st.sampled_from(["text", "review", "Sentence", "words, all"]),
)
def test_training_and_predict_read_the_same_texts(tmp_path, rows, form, name):
    made = [(f"{text}{n}", label) for n, (text, label) in enumerate(rows)] + [("", "no"), (" \t ", "yes")]
    made += [(f"{label} {n}", label) for n in range(80) for label in ("no", "yes", "nan")]
    texts, labels = zip(*made, strict=True)
    path = write(tmp_path, form, {name: texts, "label": labels, "id": range(len(made))})
    options = {"missing": "drop", "text": name if name == "words, all" else None}
    dataset = "jsonl" if form == "jsonl" else "csv"
    asked, empty, _ = read_input(str(path), kind="classification", options=options)
    assert sorted(one.text for one in asked) == sorted(trained(dataset, path, options))
    assert sorted(one.text for one in asked) == sorted(text.strip() for text in texts if text.strip())
    assert empty == sum(not text.strip() for text in texts)
    assert all(one.others == {"label": labels[one.row - 1], "id": one.others["id"]} for one in asked)
    assert [int(one.others["id"]) + 1 for one in asked] == [one.row for one in asked]


@LAX
@given(
    rows=st.lists(st.tuples(SIGNS, SIGNS, LABEL), min_size=3, max_size=8),
    form=st.sampled_from(["csv", "tsv", "jsonl"]),
    names=st.sampled_from([("sentence1", "sentence2"), ("premise", "hypothesis"), ("left", "right")]),
)
def test_training_and_predict_read_the_same_pairs(tmp_path, rows, form, names):
    made = [(f"{a}{n}", b, label) for n, (a, b, label) in enumerate(rows)]
    made += [(f"{label} {n}", f"so {n}", label) for n in range(80) for label in ("no", "yes", "nan")]
    firsts, seconds, labels = zip(*made, strict=True)
    path = write(tmp_path, form, {names[0]: firsts, "label": labels, names[1]: seconds})
    options = {"missing": "drop", "text": names if names[0] == "left" else None}
    asked, empty, _ = read_input(str(path), kind="classification", options=options)
    assert sorted(one.text for one in asked) == sorted(
        trained("jsonl" if form == "jsonl" else "csv", path, options)
    )
    whole = [f"{a.strip()}\n{b.strip()}" for a, b, _ in made if a.strip() and b.strip()]
    assert sorted(one.text for one in asked) == sorted(whole) and empty == len(made) - len(whole)


@LAX
@given(
    rows=st.lists(st.tuples(TEXT, SIGNS, TEXT), min_size=1, max_size=6),
    form=st.sampled_from(["csv", "tsv", "jsonl"]),
    chat=st.sampled_from([None, True, False]),
    named=st.sampled_from([("instruction", "output"), ("prompt", "completion"), ("question", "answer")]),
)
def test_training_and_predict_read_the_same_prompts(tmp_path, rows, form, chat, named):
    made = [*rows, *((f"say {n}", "", "a") for n in range(60))]
    prompts, more, answers = zip(*made, strict=True)
    path = write(tmp_path, form, {named[0]: prompts, "input": more, named[1]: answers})
    options = {"chat": chat}
    asked, empty, _ = read_input(str(path), kind="causal", options=options)
    read = trained("instruct", path, options)
    assert sorted(one.text for one in asked) == sorted(turns[:-1] for turns in read) and not empty
    joined = [
        f"{p}\n\n{m}" if m and named[0] == "instruction" else p for p, m in zip(prompts, more, strict=True)
    ]
    assert [one.shown for one in asked] == joined


TURNS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXT), min_size=1, max_size=4)


@LAX
@given(
    chats=st.lists(st.tuples(TURNS, TEXT), min_size=1, max_size=5), chat=st.sampled_from([None, True, False])
)
def test_training_and_predict_read_the_same_chats_and_write_the_same_tokens(
    tmp_path, tiny_llama, chats, chat
):
    turns = [[*before, ("user", "so?"), ("assistant", answer)] for before, answer in chats]
    turns += [[("user", f"say {n}"), ("assistant", "a")] for n in range(60)]
    messages = [[{"role": role, "content": text} for role, text in one] for one in turns]
    path = write_objects(tmp_path, "x.jsonl", {"messages": messages})
    asked, _, _ = read_input(str(path), kind="causal", options={"chat": chat})
    read = trained("instruct", path, {"chat": chat})
    assert sorted(one.text for one in asked) == sorted(found[:-1] for found in read)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    prompts = data.encode_prompts([found[:-1] for found in read], tokenizer)
    assert prompts == [prompt for prompt, _ in render(read, tokenizer)]


@LAX
@given(
    rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), blank=st.sampled_from(["", " ", "\n", "\t"])
)
def test_training_and_predict_write_the_same_seam(tmp_path, tiny_llama, spec_of, rows, blank):
    made = [(prompt, blank + answer.lstrip()) for prompt, answer in rows if answer.strip()]
    made += [(f"say {n}", f"{blank}a") for n in range(60)]
    prompts, answers = zip(*made, strict=True)
    path = write_objects(tmp_path, "x.jsonl", {"prompt": prompts, "completion": answers})
    read, tokenizer = trained("instruct", path, {}), AutoTokenizer.from_pretrained(tiny_llama)
    spaced = data.completions_spaced(spec_of(dataset="instruct", path=str(path)))
    assert spaced == bool(blank)
    found = data.encode_prompts([turns[:-1] for turns in read], tokenizer, spaced=spaced)
    assert found == [prompt for prompt, _ in render(read, tokenizer)]


# --- the command


def test_an_input_beside_an_instruction_is_part_of_the_prompt(finished, tmp_path, rows):
    run = str(finished("lora", model="llama", targets="all"))
    lines = [{"instruction": "say", "input": word, "output": "x", "id": n} for n, word in enumerate("ab")]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "in.txt").write_text("say\n")
    assert main([run, "--input", str(tmp_path / "in.jsonl"), "--max-new-tokens", "4"]) == 0
    found = rows()
    assert [(row["text"], row["output"], row["id"]) for row in found] == [
        ("say\n\na", "x", "0"), ("say\n\nb", "x", "1")
    ]  # fmt: skip
    answers = Predictor([open_source(finished("lora", model="llama", targets="all"))])(
        ["say\n\na", "say\n\nb"], max_new_tokens=4
    )
    assert [row["prediction"] for row in found] == [a.prediction for a in next(iter(answers.values()))]


@pytest.mark.parametrize("sign", ["\u2028", "\u0085", "\x0c", "\x1d"])
def test_a_sign_that_ends_no_line_is_part_of_a_text(finished, tmp_path, rows, sign):
    (tmp_path / "in.txt").write_bytes(f"  good{sign}4 \r\nbad 1\rgood 2\n\n".encode())
    assert main([str(finished("lora")), "--input", str(tmp_path / "in.txt")]) == 0
    found = rows()
    assert [(row["row"], row["text"]) for row in found] == [
        ("1", f"good{sign}4"), ("2", "bad 1"), ("3", "good 2")
    ]  # fmt: skip


def test_texts_are_stripped_wherever_they_come_from(finished):
    predictor = Predictor([open_source(finished("lora"))])
    (answers,) = predictor(["good 4", "\t good 4\n"]).values()
    assert answers[0].scores == pytest.approx(answers[1].scores, abs=1e-6)
    (other,) = predictor(["bad 4"]).values()
    assert other[0].scores != pytest.approx(answers[0].scores, abs=1e-3)


def test_missing_texts_are_passed_over_and_numbers_are_texts(finished, tmp_path, rows):
    lines = [{"text": "good 4"}, {"text": None}, {"text": 7}, {"other": 1}, {"text": 2.0}, {"text": True}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main([str(finished("lora")), "--input", str(tmp_path / "in.jsonl")]) == 0
    assert [(row["row"], row["text"]) for row in rows()] == [
        ("1", "good 4"), ("3", "7"), ("5", "2"), ("6", "True")
    ]  # fmt: skip


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_other_columns_are_kept_under_names_of_their_own(finished, tmp_path, ending):
    columns = {"nr": ["x1", "x2"], "review": ["good 4", "bad 1"], "row": ["7", "8"], "score no": ["a", "b"]}
    path, out = write_table(tmp_path, "in.csv", columns), tmp_path / f"out.{ending}"
    assert main([str(finished("lora")), "--input", str(path), "--output", str(out)]) == 0
    with open(out, newline="") as file:
        found = list(csv.DictReader(file)) if ending == "csv" else [json.loads(line) for line in file]
    assert [(row["nr"], row["text"], row["input row"], str(row["row"])) for row in found] == [
        ("x1", "good 4", "7", "1"), ("x2", "bad 1", "8", "2")
    ]  # fmt: skip
    kept = "input score no" if ending == "csv" else "score no"
    assert [row[kept] for row in found] == ["a", "b"]


def test_the_form_of_the_input_can_be_said(finished, tmp_path, rows, capsys):
    run = str(finished("lora"))
    (tmp_path / "in.csv").write_bytes("nr;text\n1;für, 4\n".encode("utf-16"))
    assert main([run, "--input", str(tmp_path / "in.csv")]) == 0
    said = capsys.readouterr()
    assert "note: in.csv is read as utf-16" in said.err and "für, 4" in said.out
    (tmp_path / "in.txt").write_bytes("ж".encode("cp1251"))
    assert main([run, "--input", str(tmp_path / "in.txt"), "--encoding", "cp1251"]) == 0
    assert [row["text"] for row in rows()] == ["ж"]
    (tmp_path / "in.tsv").write_text('"a"\tb\n"c"\td\n')
    words = ["--header", "false", "--quoting", "false", "--text", "0", "--separator", "tab"]
    assert main([run, "--input", str(tmp_path / "in.tsv"), *words]) == 0
    assert [row["text"] for row in rows()] == ['"a"', '"c"']


@pytest.mark.parametrize(
    "config",
    [
        {"repetition_penalty": 0.01},
        {"repetition_penalty": 50.0},
        {"min_new_tokens": 12},
        {"no_repeat_ngram_size": 1},
        {"suppress_tokens": list(range(2, 200))},
        {"num_beams": 3},
        {"do_sample": True, "temperature": 9.0, "top_k": 3},
        {"forced_eos_token_id": 5},
        {"max_length": 3},
        {"exponential_decay_length_penalty": (0, 9.0)},
    ],
)
def test_answers_are_greedy_whatever_the_generation_config_says(finished, config):
    predictor = Predictor([open_source(finished("lora", model="llama", targets="all"))])
    (expected,) = predictor(["say a 3", "b"], max_new_tokens=6).values()
    (model,) = predictor._packs.values()
    model.generation_config.update(**config)
    before = model.generation_config.to_dict()
    torch.manual_seed(3)
    (found,) = predictor(["say a 3", "b"], max_new_tokens=6).values()
    assert [answer.prediction for answer in found] == [answer.prediction for answer in expected]
    assert model.generation_config.to_dict() == before


def test_a_file_that_training_would_refuse_is_refused_with_the_same_words(tmp_path):
    (tmp_path / "x.csv").write_text('text,label\n"open,1\nok,0\n')
    said = []
    for read in (
        lambda: data.read_options("csv", {"path": str(tmp_path / "x.csv")}),
        lambda: read_input(str(tmp_path / "x.csv"), kind="classification", options={}),
    ):
        with pytest.raises(UserError, match="line 2: not valid CSV") as caught:
            read()
        said.append(str(caught.value))
    assert said[0] == said[1]
