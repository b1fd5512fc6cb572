"""The measurements of tasks: what they compare is the same, and what they print."""

import json

import pytest
import torch

from experiments.console import commands


@pytest.fixture
def words(tiny_llama, tmp_path, monkeypatch):
    """A tiny decoder and a table of prompts of several lengths."""
    monkeypatch.setenv("ABLORA_CACHE", str(tmp_path / "cache"))
    rows = ({"prompt": f"say {'abc' * (i % 7)} {i}", "completion": "ab"[i % 2] * 3} for i in range(80))
    (tmp_path / "toy.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    threads = torch.get_num_threads()
    yield ["--model", str(tiny_llama), "--dataset", "instruct", "--path", str(tmp_path / "toy.jsonl")]
    torch.set_num_threads(threads)


def test_answers_of_a_pack_are_compared_with_those_of_transformers(words, tmp_path, capsys):
    asked = ["generate", *words, "--prompts", "5", "--size", "3", "--new", "2,6", "--r", "2", "--rounds", "3"]
    assert commands.run("experiments.bench", "", [*asked, "--csv", str(tmp_path / "table.csv")]) == 0
    said = capsys.readouterr().out
    assert "20 answers of at most 6 tokens are equal" in said and "3 of each run at a time" in said
    assert (tmp_path / "table.csv").read_text().count("new tokens / transformers'") == 2


def test_rows_are_tokenised_and_recalled(words, capsys):
    assert commands.run("experiments.bench", "", ["data", *words, "--rounds", "3"]) == 0
    said = capsys.readouterr().out
    assert "Data: 80 rows of instruct" in said and "recalled / 1 s" in said
