"""The measurement of packed sweeps: what it compares, and the baseline's groups and batches."""

from types import SimpleNamespace

import pytest
import torch

from experiments.bench import trainer
from experiments.bench.commands import packs
from experiments.bench.fake import specs_of
from experiments.console import commands
from experiments.errors import UserError


def test_contenders_take_turns_and_the_ratio_is_that_of_each_round(monkeypatch, capsys, tmp_path):
    seconds = iter([30.0, 60.0, 100.0, 20.0, 80.0, 50.0, 40.0, 50.0, 40.0])
    ran = []

    def timed(command, folder=None):
        ran.append("peft" if folder is None else next(word for word in command if word.startswith("pack=")))
        return next(seconds), '{"accuracy": 0.5}'

    monkeypatch.setattr(packs, "timed", timed)
    monkeypatch.setattr(packs, "records", lambda folder: [{"metrics": {"test/accuracy": 0.5}}])
    monkeypatch.setattr(packs, "SWEEPS", {"six": {"variant": ("lora",)}})
    table = tmp_path / "table.csv"
    assert commands.run("experiments.bench", "", ["packs", "--pack", "3", "--csv", str(table)]) == 0
    assert ran == ["pack=3", "pack=off", "peft"] * 3
    said = capsys.readouterr().out
    assert "packed / solo: 0.500 (0.250 to 0.800)" in said
    assert "packed / peft: 0.400 (0.300 to 1.000), target at most 0.5" in said
    assert "six,default,peft,0.4,0.3,1.0,0.5" in table.read_text()


def test_unknown_contenders_are_refused():
    with pytest.raises(UserError, match="'nobody' is none of solo, peft"):
        packs.main(SimpleNamespace(sweep="six", steps=None, against="nobody", rounds=1, pack="auto"))


def test_the_baseline_trains_with_the_rates_of_the_run(tiny_bert):
    from transformers import AutoModelForSequenceClassification

    [spec] = specs_of("variant=loraplus", "r=2", "lr=0.01", "train.head_lr=0.5")
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert)
    adapted = trainer._adapted(model, spec)
    rates = {group["lr"]: len(group["params"]) for group in trainer._groups(adapted, spec)}
    count = sum("lora_A" in name for name, _ in adapted.named_parameters())
    assert rates == {0.5: 2, 0.08: count, 0.01: count} and count > 0


def test_the_baseline_pads_to_the_longest_text_of_a_batch():
    split = SimpleNamespace(
        input_ids=torch.tensor([[7, 8, 0, 0], [5, 0, 0, 0]]),
        attention_mask=torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]]),
        labels=torch.tensor([1, 0]),
    )
    batch = trainer._padded(trainer._rows(split))
    assert batch["input_ids"].tolist() == [[7, 8], [5, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]] and batch["labels"].tolist() == [1, 0]
