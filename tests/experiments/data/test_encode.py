"""From rows to tensors: lengths, masks, what is cut and learned, and a cache that may be lost or broken."""

import json

import pytest
import torch

from experiments import cache, data, models
from experiments.data import _encode
from experiments.data._tasks import digest
from experiments.errors import UserError
from experiments.tasks import kind_of
from experiments.tasks._base import IGNORE

ROWS = [(f"{'abcdef'[i % 6] * (1 + i % 9)} {i}", i % 2) for i in range(200)]
PAIRS = [{"prompt": f"q{i}:", "completion": f" {i}!"} for i in range(200)]
CHATS = [
    {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}]}
    for i in range(200)
]


@pytest.fixture(autouse=True)
def nothing_known(tmp_path, monkeypatch):
    """Nothing encoded before, in memory or on disk."""
    data._encoded.clear()
    monkeypatch.setenv("ABLORA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def encoded(tmp_path, spec_of):
    """A task and its tokenizer by `encoded(model_folder, dataset, rows, max_length)`."""

    def encoded(folder, dataset, rows, max_length=64):
        path = tmp_path / f"{dataset}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        spec = spec_of(folder, dataset=dataset, path=str(path))
        raw = data.read(spec)
        _, tokenizer, _ = models.load(spec, kind=kind_of(raw.kind).head, n_labels=len(raw.labels))
        return data.encode(raw, tokenizer, max_length), tokenizer

    return encoded


@pytest.fixture
def texts():
    return [{"text": text, "label": label} for text, label in ROWS]


def plain(task):
    """A task as values that can be compared."""
    return {
        split: (
            part.ids,
            part.truncated,
            *(t.tolist() for t in (part.input_ids, part.attention_mask, part.labels)),
        )
        for split, part in task.splits.items()
    }


def test_texts_are_padded_on_the_right_to_the_longest_of_the_data(encoded, tiny_bert, texts):
    task, tokenizer = encoded(tiny_bert, "jsonl", texts)
    longest = max(len(tokenizer(text)["input_ids"]) for text, _ in ROWS)
    assert task.max_length == -(-longest // 8) * 8 < 64
    for part in task.splits.values():
        assert part.input_ids.shape == part.attention_mask.shape == (len(part.ids), task.max_length)
        assert part.input_ids.dtype == part.attention_mask.dtype == part.labels.dtype == torch.long
        lengths = part.attention_mask.sum(1)
        assert torch.equal(part.attention_mask, (torch.arange(task.max_length) < lengths[:, None]).long())
        assert (part.input_ids[part.attention_mask == 0] == tokenizer.pad_token_id).all()
        assert part.truncated == 0


def test_every_row_carries_its_own_text_and_label(encoded, tiny_bert, texts):
    task, tokenizer = encoded(tiny_bert, "jsonl", texts)
    expected = {digest(text)[:12]: (tokenizer(text)["input_ids"], str(label)) for text, label in ROWS}
    found = {}
    for part in task.splits.values():
        for name, ids, mask, label in zip(
            part.ids, part.input_ids, part.attention_mask, part.labels, strict=True
        ):
            found[name] = (ids[mask == 1].tolist(), task.labels[label])
    assert found == expected


def test_long_texts_are_cut_counted_and_told(encoded, tiny_bert, texts):
    task, tokenizer = encoded(tiny_bert, "jsonl", texts, 8)
    long = sum(len(tokenizer(text)["input_ids"]) > 8 for text, _ in ROWS)
    assert task.max_length == 8
    assert sum(part.truncated for part in task.splits.values()) == long > 0
    for part in task.splits.values():
        ends = part.input_ids.gather(1, part.attention_mask.sum(1, keepdim=True) - 1)
        assert (ends == tokenizer.sep_token_id).all()  # the closing token is kept
    assert (
        f"{long} of 200 texts are longer than 8 tokens and were cut there (dataset.max_length)" in task.notes
    )


def test_the_models_own_limit_goes_before_the_asked_length(encoded, tiny_bert, texts):
    longer = [{**row, "text": row["text"] + " z" * 100} for row in texts]
    task, _ = encoded(tiny_bert, "jsonl", longer, 500)
    assert task.max_length == 64
    assert (
        "200 of 200 texts are longer than 64 tokens and were cut there (the model takes no more)"
        in task.notes
    )


def test_what_the_loop_needs_to_know_is_on_the_task(encoded, tiny_bert, tiny_gpt2, texts):
    task, _ = encoded(tiny_bert, "jsonl", texts)
    assert (task.kind, task.labels, task.metric, task.goal) == (
        "classification",
        ("0", "1"),
        "accuracy",
        "max",
    )
    assert sum(task.rows.values()) == 200 and set(task.sha256) == {"train", "validation", "test"}
    task, _ = encoded(tiny_gpt2, "instruct", PAIRS)
    assert (task.kind, task.labels, task.metric, task.goal) == ("completion", (), "loss", "min")


def learned(part, tokenizer, row):
    """The text that the loss is on, and the text before it."""
    ids, labels = part.input_ids[row], part.labels[row]
    return tokenizer.decode(ids[labels != IGNORE]), tokenizer.decode(
        ids[(labels == IGNORE) & (part.attention_mask[row] == 1)]
    )


def test_loss_is_on_the_completion_and_its_end_only(encoded, tiny_gpt2):
    task, tokenizer = encoded(tiny_gpt2, "instruct", PAIRS)
    part = task.splits["train"]
    for row in range(len(part.ids)):
        completion, prompt = learned(part, tokenizer, row)
        number = prompt[1:-1]
        assert (prompt, completion) == (f"q{number}:", f" {number}!<|endoftext|>")
    assert torch.equal(part.labels[part.labels != IGNORE], part.input_ids[part.labels != IGNORE])
    assert (part.labels[part.attention_mask == 0] == IGNORE).all()


def test_a_line_break_stands_at_a_seam_without_white_space(encoded, tiny_gpt2):
    task, tokenizer = encoded(
        tiny_gpt2, "instruct", [{"prompt": f"q{i}", "completion": "a"} for i in range(200)]
    )
    completion, prompt = learned(task.splits["train"], tokenizer, 0)
    assert prompt.endswith("\n") and completion == "a<|endoftext|>"


def test_a_start_token_is_written_where_the_tokenizer_writes_one(encoded, tiny_llama):
    task, tokenizer = encoded(tiny_llama, "instruct", PAIRS)
    completion, prompt = learned(task.splits["train"], tokenizer, 0)
    assert prompt.startswith("<s>q") and completion.endswith("!</s>")


def test_chats_go_through_the_models_own_template(encoded, tiny_llama):
    task, tokenizer = encoded(tiny_llama, "instruct", CHATS)
    completion, prompt = learned(task.splits["train"], tokenizer, 0)
    number = completion[1:].removesuffix("</s>")
    assert (prompt, completion) == (f"<s><user>q{number}<assistant>", f"a{number}</s>")


def test_chats_without_a_template_are_lines_of_roles(encoded, tiny_gpt2):
    task, tokenizer = encoded(tiny_gpt2, "instruct", CHATS)
    completion, prompt = learned(task.splits["train"], tokenizer, 0)
    number = completion[2:].removesuffix("<|endoftext|>")
    assert (prompt, completion) == (f"User: q{number}\nAssistant:", f" a{number}<|endoftext|>")


def test_examples_that_lose_their_completion_are_dropped_and_counted(encoded, tiny_gpt2):
    long = [{"prompt": "x" * 70 + str(i), "completion": "y"} for i in range(3)]
    half = [{"prompt": "x" * 60 + str(i), "completion": "y" * 20} for i in range(2)]
    task, _ = encoded(tiny_gpt2, "instruct", PAIRS + long + half, 64)
    assert sum(task.rows.values()) == 202
    assert sum(part.truncated for part in task.splits.values()) == 2
    assert (
        "3 examples were dropped: their prompt alone fills the 64 tokens (dataset.max_length)" in task.notes
    )
    with pytest.raises(UserError, match=r"dataset.max_length=3 leaves nothing to learn in train"):
        encoded(tiny_gpt2, "instruct", PAIRS, 3)


@pytest.mark.parametrize("ending", ["", ".json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove"])
def test_a_broken_cache_entry_is_made_anew(encoded, tiny_bert, texts, damage, ending):
    task, _ = encoded(tiny_bert, "jsonl", texts)
    (entry,) = (path for path in (cache.folder() / "tokens").iterdir() if path.suffix == ending)
    whole = entry.read_bytes()
    if damage == "remove":
        entry.unlink()
    else:
        flipped = whole[:-1] + bytes([whole[-1] ^ 1])
        entry.write_bytes({"flip": flipped, "cut": whole[: len(whole) // 2], "empty": b""}[damage])
    data._encoded.clear()
    again, _ = encoded(tiny_bert, "jsonl", texts)
    assert plain(again) == plain(task)
    assert list(_encode._recall(entry.stem)) == ["train", "validation", "test"]


def test_a_recalled_task_equals_a_fresh_one(encoded, tiny_bert, texts, monkeypatch):
    fresh, _ = encoded(tiny_bert, "jsonl", texts)
    data._encoded.clear()
    monkeypatch.setattr("experiments.data._encode.tokenised", None)  # would fail if it were called
    recalled, _ = encoded(tiny_bert, "jsonl", texts)
    assert plain(recalled) == plain(fresh) and recalled.notes == fresh.notes
    assert all(part.input_ids.dtype == torch.long for part in recalled.splits.values())


def test_another_length_or_tokenizer_is_another_entry(encoded, tiny_bert, tiny_gpt2, texts):
    one, other = encoded(tiny_bert, "jsonl", texts)[0], encoded(tiny_bert, "jsonl", texts, 8)[0]
    third = encoded(tiny_gpt2, "jsonl", texts)[0]
    assert len({one.max_length, other.max_length}) == 2
    assert plain(one) != plain(third)


def test_without_a_cache_that_can_be_written_the_work_goes_on_with_a_note(
    encoded, tiny_bert, texts, tmp_path, monkeypatch
):
    blocked = tmp_path / "file"
    blocked.touch()  # no folder can be made below a file, whoever tries
    monkeypatch.setenv("ABLORA_CACHE", str(blocked))
    monkeypatch.setattr(cache, "_problems", [])
    rows = [{**row, "text": row["text"] + " unseen"} for row in texts]
    task, _ = encoded(tiny_bert, "jsonl", rows)
    assert sum(task.rows.values()) == 200
    assert any("cannot be written" in note and "ABLORA_CACHE" in note for note in task.notes)
