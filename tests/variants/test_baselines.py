"""The baselines: what learns, what does not, and what they refuse."""

import warnings

import pytest
import torch

from variants import RunConfig, attach, generator


def step(attached, ids):
    optimiser = torch.optim.SGD([t.parameter for t in attached.trained], lr=0.1)
    attached.model(input_ids=ids).logits.square().sum().backward()
    optimiser.step()


def changed(model, before):
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize(
    ("method", "learns"),
    [
        ("full", lambda name: True),
        ("bitfit", lambda name: name.endswith("bias") or name.startswith("classifier")),
        ("probe", lambda name: name.startswith("classifier")),
    ],
)
def test_what_learns_is_what_the_method_says(method, learns, tiny_model, tokens):
    attached = attach(tiny_model("bert"), [RunConfig(0, method=method)])
    before = {name: p.detach().clone() for name, p in attached.model.named_parameters()}
    step(attached, tokens())
    moved = changed(attached.model, before)
    assert moved <= {name for name in before if learns(name)}
    assert {"classifier.weight", "classifier.bias"} <= moved
    assert {t.name for t in attached.trained} == {name for name in before if learns(name)}


def test_no_training_trains_nothing_and_packs(tiny_model, tokens):
    attached = attach(tiny_model("bert"), [RunConfig(k, method="zero") for k in range(3)])
    assert attached.trained == [] and not any(p.requires_grad for p in attached.model.parameters())
    logits = attached.model(input_ids=tokens(6)).logits.view(3, 2, 3)
    assert not torch.equal(logits[0], logits[1])


def test_probes_pack_and_each_has_its_own_head(tiny_model, tokens):
    attached = attach(tiny_model("bert"), [RunConfig(k, method="probe") for k in range(3)])
    alone = attach(tiny_model("bert"), [RunConfig(1, method="probe")])
    ids = tokens(6)
    torch.testing.assert_close(
        attached.model(input_ids=ids).logits[2:4], alone.model(input_ids=ids[2:4]).logits
    )


def test_roles_of_plain_parameters_tell_matrices_from_vectors(tiny_model):
    attached = attach(tiny_model("bert"), [RunConfig(0, method="full")])
    for t in attached.trained:
        if t.plain:
            assert t.role == ("weight" if t.parameter.ndim > 1 else "bias")
    assert {t.role for t in attached.trained if not t.plain} == {"head", "head_bias"}


def test_full_fine_tuning_reaches_the_head_of_a_language_model(tiny_model, tokens):
    """Where it is the embedding, it is that which learns; else it is a parameter of its own."""
    for tied, count in ((True, 0), (False, 31 * 12)):
        model = tiny_model("llama", causal=True, tie_word_embeddings=tied)
        attached = attach(model, [RunConfig(0, method="full", targets=None)])
        backbone = sum(p.numel() for p in model.base_model.parameters())
        assert attached.count(0) == backbone + count == sum(p.numel() for p in model.parameters())
        attached.model(input_ids=tokens()).logits.square().sum().backward()
        assert all(t.parameter.grad.any() for t in attached.trained)
        assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_bitfit_trains_the_biases_that_deberta_adds_to_its_queries():
    import transformers

    small = {"hidden_size": 12, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 20}
    model = transformers.DebertaForSequenceClassification(transformers.DebertaConfig(**small, vocab_size=31))
    learns = {t.name for t in attach(model, [RunConfig(0, method="bitfit", targets=None)]).trained}
    said = {name for name, _ in model.deberta.named_parameters(prefix="deberta") if "bias" in name}
    assert learns == said | {t for t in learns if t.startswith(("pooler.", "classifier."))}
    assert "deberta.encoder.layer.1.attention.self.q_bias" in learns


def test_bitfit_refuses_a_model_without_biases(tiny_model):
    with pytest.raises(ValueError, match="LlamaForSequenceClassification has no biases in its backbone"):
        attach(tiny_model("llama"), [RunConfig(0, method="bitfit")])


def test_full_refuses_a_quantised_base_and_probe_a_model_without_a_head(tiny_model):
    with pytest.raises(ValueError, match="none can be kept in a frozen storage"):
        attach(tiny_model("bert"), [RunConfig(0, method="full", axes={"storage": "nf4"})])
    with pytest.raises(ValueError, match="has no head to train"):
        attach(tiny_model("llama", causal=True), [RunConfig(0, method="probe")])


def test_tied_parameters_stay_tied_when_they_learn(tiny_model):
    attached = attach(tiny_model("gpt2", causal=True), [RunConfig(0, method="full")])
    assert attached.model.lm_head.weight is attached.model.transformer.wte.weight
    assert sum(t.parameter is attached.model.lm_head.weight for t in attached.trained) == 1


def test_a_run_without_rank_or_targets_is_refused(tiny_model):
    with pytest.raises(ValueError, match="adapters need targets and r"):
        attach(tiny_model("bert"), [RunConfig(0, r=None)])
    with pytest.raises(ValueError, match="alpha -1 must be positive"):
        attach(tiny_model("bert"), [RunConfig(0, alpha=-1)])
    with pytest.raises(ValueError, match="a pack holds runs of one method, or none; these are none"):
        attach(tiny_model("bert"), [])


def test_streams_are_functions_of_seed_and_purpose():
    def draw(*names):
        return torch.rand(4, generator=generator(*names)).tolist()

    assert draw(0, "init", "a") == draw(0, "init", "a")
    others = [
        draw(*names) for names in [(0, "init", "a"), (1, "init", "a"), (0, "order", "a"), (0, "init", "a", 1)]
    ]
    assert len({tuple(values) for values in others}) == 4


@pytest.mark.parametrize("method", ["adapters", "probe"])
def test_nothing_draws_from_the_global_generator(method, tiny_model, tokens):
    model = tiny_model("bert")
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attached = attach(model, [RunConfig(0, method=method, dropout=0.2)])
    attached.model.train()
    attached.model(input_ids=tokens()).logits.sum().backward()
    assert torch.equal(torch.get_rng_state(), state)
