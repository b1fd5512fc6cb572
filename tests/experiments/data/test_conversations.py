"""dataset=instruct: prompts and completions, chats, tables; what would be lost is refused."""

import json
import re

import pandas as pd
import pytest

from experiments.errors import UserError

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.fixture
def turns_of(tmp_path, read):
    """The conversation in 120 copies of a row that differ by a number, written as %, and the notes."""

    def turns(row, name="x.jsonl", **options):
        text = "".join(json.dumps(row).replace("%", str(n)) + "\n" for n in range(120))
        (tmp_path / name).write_text(text)
        task = read("instruct", tmp_path / name, **options)
        assert sum(map(len, task.splits.values())) == 120
        found = {turns for rows in task.splits.values() for turns in rows.turns}
        numbered = [
            tuple((role, text.replace("17", "%")) for role, text in t) for t in found if "q17" in str(t)
        ]
        return numbered[0], task.notes

    return turns


@pytest.mark.parametrize(
    ("value", "written"),
    [(5, "5"), (0, "0"), (3.5, "3.5"), (3.0, "3.0"), (True, "true"), (False, "false"), ("007", "007")],
)
def test_numbers_and_truth_values_are_completions_as_they_are_written(turns_of, value, written):
    assert turns_of({"prompt": "q%", "completion": value})[0] == (("prompt", "q%"), ("completion", written))


def test_a_number_is_a_prompt_and_an_input(turns_of):
    row = {"instruction": "q%", "input": 0, "output": "a"}
    assert turns_of(row)[0][0] == ("prompt", "q%\n\n0")
    assert turns_of({**row, "input": None}, "y.jsonl")[0][0] == ("prompt", "q%")


def test_tables_are_read_like_objects(tmp_path, read):
    frame = pd.DataFrame(
        {"instruction": [f"q{n}, “so”" for n in range(90)], "output": [f'a "{n}"\nb' for n in range(90)]}
    )
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_csv(tmp_path / "b.csv", index=True)
    frame.to_csv(tmp_path / "c.tsv", sep="\t", index=False)
    frame.to_parquet(tmp_path / "d.parquet")
    frame.to_json(tmp_path / "e.json")
    prints = {read("instruct", file).fingerprint for file in tmp_path.iterdir() if file.is_file()}
    assert len(prints) == 1


def test_texts_with_a_separator_of_their_own(tmp_path, read):
    for split, count in (("train", 80), ("valid", 20), ("test", 30)):
        lines = (f"name : Blue {split} {n} | food : Thai||Blue serves Thai .\n" for n in range(count))
        (tmp_path / f"{split}.txt").write_text("".join(lines))
    task = read("instruct", tmp_path, separator="||")
    assert [len(rows) for rows in task.splits.values()] == [80, 20, 30]
    assert task.splits["test"].turns[0][1] == ("completion", "Blue serves Thai .")
    assert task.splits["test"].turns[0][0][1].startswith("name : Blue test ")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "q%"}, {"role": "assistant", "content": "a"}]},
        {"conversations": [{"from": "human", "value": "q%"}, {"from": "gpt", "value": "a"}]},
        {
            "prompt": [{"role": "user", "content": "q%"}],
            "completion": [{"role": "assistant", "content": "a"}],
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "%"}]},
                {"role": "assistant", "content": "a", "tool_calls": None, "refusal": ""},
            ],
            "tools": [],
        },
    ],
)
def test_chats_in_their_usual_forms(turns_of, row):
    assert turns_of(row)[0] == (("user", "q%"), ("assistant", "a"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"messages": [CHAT[0], {**CHAT[1], "tool_calls": [{"function": {"name": "f"}}]}]},
            "train, example 1: a message has tool_calls, which would be left out",
        ),
        (
            {"messages": [CHAT[0], {"role": "assistant", "content": None, "function_call": {"name": "f"}}]},
            "a message has function_call",
        ),
        (
            {"messages": [CHAT[0], {"role": "tool", "content": "1", "tool_call_id": "x"}, CHAT[1]]},
            "a message has tool_call_id",
        ),
        ({"messages": [CHAT[0], {**CHAT[1], "reasoning_content": "hm"}]}, "a message has reasoning_content"),
        (
            {"messages": CHAT, "tools": [{"type": "function"}]},
            "the field tools beside messages would be left out",
        ),
        (
            {"messages": [CHAT[0], {"role": "assistant", "content": [{"type": "image"}]}]},
            "messages has to be a list",
        ),
        ({"messages": "q"}, "messages has to be a list such as"),
        ({"messages": [CHAT[1]]}, "the roles are assistant"),
        ({"prompt": "q", "completion": {"a": 1}}, "have to be texts, but are 'q' and \"{'a': 1}\""),
        ({"prompt": "q", "completion": None}, "have to be texts, but are 'q' and 'None'"),
        ({"prompt": " ", "completion": "a"}, "Fill in or remove that line"),
    ],
)
def test_what_would_be_lost_is_refused(tmp_path, read, row, message):
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=re.escape(message)):
        read("instruct", tmp_path / "x.jsonl")


def test_fields_that_are_not_used_are_named(turns_of):
    row = {"messages": [{"role": "user", "content": "q%", "name": "Ann"}, CHAT[1]], "id": 1}
    assert "fields that are not used: id, name of messages" in turns_of(row)[1]
    row = {"system": "be brief", "prompt": "q%", "completion": "a"}
    assert "fields that are not used: system" in turns_of(row, "y.jsonl")[1]


def test_a_chat_is_made_of_a_pair_and_lines_of_a_chat_where_it_is_said(turns_of):
    pair, chat = (
        {"prompt": "q%", "completion": "a"},
        {"messages": [{"role": "user", "content": "q%"}, CHAT[1]]},
    )
    turns = (("user", "q%"), ("assistant", "a"))
    assert turns_of(pair, chat=True)[0] == turns_of(chat, "y.jsonl", chat=True)[0] == turns
    plain = (("prompt", "User: q%\nAssistant:\n"), ("completion", "a"))
    assert turns_of(chat, "y.jsonl", chat=False)[0] == plain
    assert turns_of(pair, chat=False)[0] == turns_of(pair)[0] == (("prompt", "q%"), ("completion", "a"))
