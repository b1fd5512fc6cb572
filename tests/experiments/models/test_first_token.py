"""The last layer at the first token alone: the same logits and gradients, where the head reads no more."""

import copy

import pytest
import torch
import transformers
from torch import nn
from torch.testing import assert_close

from experiments.models.first_token import at_first_token, shortened
from variants import RunConfig, attach

SMALL = {
    "vocab_size": 29, "hidden_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 34,
    "max_position_embeddings": 24, "num_labels": 3, "pad_token_id": 0,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
PLAIN = {
    "delta": "lora", "scaling": "alpha_over_r", "storage": "fp32", "grouping": "uniform", "gradient": "none",
    "controller": "none",
}  # fmt: skip


def classifier(kind="Bert"):
    config = getattr(transformers, f"{kind}Config")(**SMALL)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    return model.requires_grad_(False).eval()


def texts(rows=6):
    ids = torch.randint(1, 29, (rows, 11), generator=torch.Generator().manual_seed(4))
    mask = (torch.arange(11) < torch.tensor([11, 7, 5, 9, 3, 11])[:rows, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def runs(model, **second):
    """Two runs, of rank 3 and 5, with every factor away from zero."""
    first = RunConfig(0, targets="all", r=3, axes=PLAIN)
    other = RunConfig(1, targets="all", r=5, axes={**PLAIN, **second.pop("axes", {})}, **second)
    attached = attach(copy.deepcopy(model), [first, other])
    noise = torch.Generator().manual_seed(5)
    for trained in attached.trained:
        trained.parameter.data += 0.1 * torch.randn(trained.parameter.shape, generator=noise)
    return attached


def passed(attached, layer):
    """Logits and gradients, in float64."""
    attached.model.double().zero_grad()
    attached.before_step()
    with at_first_token(layer):
        logits = attached.model(**texts()).logits
        (logits * torch.arange(18.0).view(6, 3).sin()).sum().backward()
    return logits.detach(), [trained.parameter.grad.clone() for trained in attached.trained]


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "XLMRoberta", "Electra"])
@pytest.mark.parametrize("delta", ["lora", "dora"])
def test_logits_and_gradients_are_those_of_the_whole_layer(kind, delta):
    attached = runs(classifier(kind), axes={"delta": delta})
    layer = shortened(attached.model, texts())
    assert layer is not None
    lengths = []
    handle = layer.output.dense.register_forward_hook(lambda _, __, out: lengths.append(out.shape[1]))
    ours, whole = passed(attached, layer), passed(attached, None)
    handle.remove()
    assert lengths == [1, 11]
    assert any(grad.abs().max() > 1e-3 for grad in whole[1])
    assert_close(ours, whole, rtol=1e-9, atol=1e-11)


def test_with_checkpointing_too():
    attached = runs(classifier())
    layer = shortened(attached.model, texts())
    whole = passed(attached, None)
    attached.model.gradient_checkpointing_enable({"use_reentrant": False})
    attached.model.train()
    assert_close(passed(attached, layer), whole, rtol=1e-9, atol=1e-11)


def test_a_run_that_has_diverged_changes_nothing_for_the_others():
    attached = runs(classifier())
    attached.trained[0].parameter.data[1:] = torch.nan
    assert shortened(attached.model, texts()) is not None


class Mean(nn.Module):
    """A pooler that reads all tokens."""

    def forward(self, hidden):
        return hidden.mean(1)


class Twice(nn.Module):
    """An attention that reads its queries a second time, as no BERT does."""

    def __init__(self, own):
        super().__init__()
        self.own = own

    def forward(self, out, first):
        return self.own(out, first) + out.sum(1, keepdim=True)


def pooled(model):
    model.bert.pooler = Mean()


def mixed(model):
    model.bert.encoder.layer[-1].attention.output = Twice(model.bert.encoder.layer[-1].attention.output)


def watched(model):
    model.bert.encoder.layer[-1].register_forward_hook(lambda *_: None)


@pytest.mark.parametrize("change", [pooled, mixed, watched])
def test_a_layer_of_which_more_is_read_stays_whole(change):
    model = classifier()
    assert shortened(model, texts()) is not None
    change(model)
    assert shortened(model, texts()) is None


def test_models_of_another_build_stay_whole(tiny_gpt2, tiny_llama, tiny_modernbert):
    for folder in (tiny_gpt2, tiny_llama, tiny_modernbert):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
        model.config.pad_token_id = 0
        assert shortened(model, {"input_ids": texts()["input_ids"]}) is None
