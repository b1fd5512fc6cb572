"""What an evaluation says of each example, and that logits are made where a target is and nowhere else."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from experiments.data import Encoded
from experiments.tasks import Outputs, kind_of
from experiments.training import evaluate as evaluation
from experiments.training.evaluate import evaluate
from variants import RunConfig, attach

DECODERS = ["llama", "gemma2", "granite", "cohere", "gpt_neox", "opt", "bloom", "mistral"]


def test_the_scores_of_texts_have_the_loss_over_tokens_as_their_mean():
    total, targets = torch.tensor([6.0, 1.0, 12.0]), torch.tensor([3, 1, 7])
    task = SimpleNamespace(metric="loss", metrics=(), settings={})
    found = kind_of("completion").score(task, None, Outputs(total, targets, torch.full((3,), -1)))
    loss, score = found.columns["loss"], found.columns["score"]
    assert loss == pytest.approx([2.0, 1.0, 12 / 7])
    assert found.metrics == {"loss": pytest.approx(19 / 11)}
    assert sum(score) / 3 == pytest.approx(19 / 11) and sum(loss) / 3 != pytest.approx(19 / 11)


@pytest.fixture
def split():
    """Texts of several lengths: one without a target, one with nothing but targets."""
    draw = torch.Generator().manual_seed(3)
    lengths = torch.tensor([17, 5, 33, 2, 29, 33, 11])
    first = torch.tensor([9, 1, 20, 2, 3, 0, 10])  # the first target of each
    places = torch.arange(33)
    ids = torch.randint(3, 61, (7, 33), generator=draw)
    mask = (places < lengths[:, None]).long()
    labels = torch.where((places >= first[:, None]) & mask.bool(), ids, -100)
    encoded = Encoded(tuple("abcdefg"), ids * mask, mask, labels, 0)
    return SimpleNamespace(
        kind="completion", metric="loss", metrics=(), settings={}, splits={"validation": encoded}
    )


def pack_of(model, seeds):
    """Runs of LoRA on all maps, moved away from where they start, as one pack."""
    runs = [
        RunConfig(
            seed, r=2, alpha=8.0, targets="all",
            axes={"delta": "lora", "scaling": "alpha_over_r", "storage": "fp32", "grouping": "uniform",
                  "controller": "none"},
        )
        for seed in seeds
    ]  # fmt: skip
    attached = attach(copy.deepcopy(model), runs)
    with torch.no_grad():
        for trained in attached.trained:
            for k, seed in enumerate(seeds):
                draw = torch.Generator().manual_seed(seed)
                trained.parameter[k] += 0.2 * torch.randn(trained.parameter[k].shape, generator=draw)
    return attached


@torch.no_grad()
def by_hand(model, encoded):
    """Per row the mean loss of its targets, in float64, from the logits at every place of the row alone."""
    losses = []
    for ids, mask, labels in zip(encoded.input_ids, encoded.attention_mask, encoded.labels, strict=True):
        length = int(mask.sum())
        logits = model(ids[None, :length], attention_mask=mask[None, :length]).logits[0, :-1].double()
        wanted = labels[1:length] != -100
        each = F.cross_entropy(logits[wanted], labels[1:length][wanted], reduction="sum")
        losses.append(float(each / wanted.sum().clamp_min(1)))
    return losses


@pytest.mark.parametrize("kind", DECODERS)
def test_losses_are_those_of_all_logits_whatever_a_model_does_to_them(decoder, split, monkeypatch, kind):
    model = decoder(kind)
    alone = [pack_of(model, [seed]) for seed in (4, 5, 6)]
    expected = [by_hand(one.model.eval(), split.splits["validation"]) for one in alone]
    assert len({row[0] for row in expected}) == 3
    monkeypatch.setattr(evaluation, "LOGITS", 61 * 3 * 7)  # seven places of each run at a time
    pack = pack_of(model, [4, 5, 6])
    found = evaluate(pack.model, split, "validation", runs=3, precision="fp32", batch_size=9)
    for one, losses in zip(found, expected, strict=True):
        assert one.columns["loss"] == pytest.approx(losses, rel=2e-5, abs=1e-6)


def test_logits_are_made_at_targets_alone_and_never_more_than_the_limit(decoder, split, monkeypatch):
    model, made = decoder("llama"), []
    monkeypatch.setattr(evaluation, "LOGITS", 61 * 5)
    model.lm_head.register_forward_hook(lambda module, given, logits: made.append(logits.shape))
    evaluate(model, split, "validation", runs=1, precision="fp32", batch_size=4)
    batches = [shape for shape in made if shape[1] == 1 and shape[0] > 1]
    chunks = [shape for shape in made if shape not in batches]
    assert max(shape.numel() for shape in chunks) <= 61 * 5
    targets = int((split.splits["validation"].labels[:, 1:] != -100).sum())
    lone = sum(1 for shape in chunks if shape[1] == 1)  # a batch of one row, or a chunk of one place
    assert targets <= sum(shape[1] for shape in chunks) <= targets + lone
    assert not model.lm_head._forward_pre_hooks


def test_a_model_that_does_not_call_its_head_is_read_by_all_its_logits(decoder, split):
    class Own(torch.nn.Module):
        """The map to the vocabulary is written out."""

        def __init__(self, model):
            super().__init__()
            self.inner = model

        def get_output_embeddings(self):
            return self.inner.lm_head

        def forward(self, input_ids, attention_mask):
            hidden = self.inner.model(input_ids, attention_mask=attention_mask).last_hidden_state
            return SimpleNamespace(logits=hidden @ self.inner.lm_head.weight.T)

    model = decoder("llama")
    [one], [other] = (
        evaluate(each, split, "validation", runs=1, precision="fp32", batch_size=3)
        for each in (model, Own(model))
    )
    assert one.columns["loss"] == pytest.approx(other.columns["loss"], rel=1e-5)


@pytest.fixture
def choices():
    """Eight questions of two to four options: long prompts of several lengths, one too short to be shared."""
    draw = torch.Generator().manual_seed(5)
    word = lambda n: torch.randint(3, 61, (n,), generator=draw).tolist()  # noqa: E731
    rows, first, example = [], [], []
    for number, length in enumerate((20, 33, 21, 4, 33, 28, 20, 14)):
        prompt, again = word(length), word(2)
        for option in range(2 + number % 3):
            own = again + word(1 + 2 * option) if number % 2 else word(2 + option)  # some share more
            rows.append(prompt + own)
            first.append(length)
            example.append(number)
    width = max(map(len, rows)) + 1
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = (torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]).long()
    labels = torch.where((torch.arange(width) >= torch.tensor(first)[:, None]) & mask.bool(), ids, -100)
    return Encoded(tuple(map(str, range(len(rows)))), ids, mask, labels, 0, meta={"example": example})


@pytest.mark.parametrize("kind", DECODERS)
def test_a_prompt_is_read_once_for_all_of_its_options(decoder, choices, kind):
    model, tokens = decoder(kind), []
    expected = [by_hand(pack_of(model, [seed]).model.eval(), choices) for seed in (4, 5, 6)]
    pack = pack_of(model, [4, 5, 6]).model.eval()
    for size in (1, 12, 1000):
        found = evaluation.forward(
            pack, kind_of("choice"), choices, runs=3, precision="fp32", batch_size=size
        )
        for one, losses in zip(found, expected, strict=True):
            means = (one.total / one.targets).tolist()
            assert means == pytest.approx(losses, rel=1e-5, abs=1e-6)
    count = lambda _, args, given: tokens.append(given["input_ids"].numel())  # noqa: E731
    model.register_forward_pre_hook(count, with_kwargs=True)
    evaluation.forward(model, kind_of("choice"), choices, runs=1, precision="fp32", batch_size=64)
    everything = int(choices.attention_mask.sum())
    assert (sum(tokens) < 0.7 * everything) == (kind != "bloom")  # which takes no positions


@pytest.mark.parametrize("method", ["prefix", "ptuning_v2", "prompt"])
def test_what_stands_before_the_text_stands_before_a_shared_prompt(decoder, choices, method):
    runs = [RunConfig(s, method=method, targets=None, r=None, options={"length": 3}) for s in (1, 2)]
    model = attach(decoder("llama"), runs).model.eval()
    apart = replace(choices, meta={})
    shared, alone = (
        evaluation.forward(model, kind_of("choice"), each, runs=2, precision="fp32", batch_size=20)
        for each in (choices, apart)
    )
    for one, other in zip(shared, alone, strict=True):
        assert one.total.tolist() == pytest.approx(other.total.tolist(), rel=1e-5)
    assert not torch.allclose(shared[0].total, shared[1].total)
