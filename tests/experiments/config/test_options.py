"""Axes and options of the variants, from the words of a command to the layers and steps that they make."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from transformers import BertConfig, BertForSequenceClassification

from experiments import spec
from experiments.config.overrides import tidied
from experiments.config.resolve import check_composition, resolve
from experiments.training.adamw import AdamSettings, PackedAdamW
from experiments.training.loop import run_config
from variants import attach, rates, write_peft

CONF = Path(__file__).resolve().parents[3] / "conf"
ADAPTERS = ["lora", "rslora", "loraplus", "dora", "adalora", "qlora"]
D, INNER, BLOCKS, CLASSES = 20, 44, 3, 5
IDS = torch.randint(3, 61, (6, 9), generator=torch.Generator().manual_seed(7))
LABELS = IDS[:, 0] % CLASSES


@pytest.fixture(scope="module")
def composed():
    """The configuration that a command's words make, and the choices in it."""
    spec.register()
    with initialize_config_dir(str(CONF), version_base=None):

        def made(*words):
            config = OmegaConf.to_container(compose("config", overrides=tidied(words)), resolve=True)
            variant = next((w.split("=")[1] for w in words if w.startswith("variant=")), "lora")
            return config, {"variant": variant, "model": "minilm", "dataset": "scipy_topics"}

        yield made


@pytest.fixture(scope="module")
def spec_from(composed):
    """The spec that a command's words make."""

    def made(*words):
        config, choices = composed(*words)
        assert check_composition(config, choices=choices) == []
        return resolve(config, choices=choices)

    return made


def bert():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=61, hidden_size=D, num_hidden_layers=BLOCKS, num_attention_heads=2,
            intermediate_size=INNER, max_position_embeddings=16, num_labels=CLASSES,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.3,
        )  # fmt: skip
        return BertForSequenceClassification(config).eval()


def attached(made, steps=40):
    return attach(bert(), [run_config(made, steps=steps)])


def losses(made, steps):
    """The losses of a few steps on one batch."""
    model = attached(made)
    run = model.runs[0]
    optimiser = PackedAdamW(model.trained, rates=[rates(run, 1e-3, 5e-3, 0.0)], settings=[AdamSettings()])
    found = []
    for step in range(steps):
        optimiser.zero_grad()
        model.clock.step = step
        model.before_step()
        loss = torch.nn.functional.cross_entropy(model.model(input_ids=IDS).logits.float(), LABELS)
        (loss + model.penalty().sum()).backward()
        optimiser.clip(optimiser.grad_norm())
        optimiser.step(torch.ones(1), torch.ones(1, dtype=torch.bool))
        model.after_step(step)
        found.append(loss.item())
    return found


GRID = list(
    itertools.product(
        ["lora", "dora", "adalora"],
        ["alpha_over_r", "alpha_over_sqrt_r"],
        ["fp32", "bf16", "nf4"],
        ["uniform", "lora_plus"],
    )
)


@pytest.mark.parametrize("axes", GRID, ids="-".join)
def test_every_combination_of_the_axes_learns(axes, spec_from):
    delta, scaling, storage, grouping = axes
    made = spec_from(
        f"variant={delta}", f"variant.scaling={scaling}", f"variant.storage={storage}",
        f"variant.grouping={grouping}", "r=3", "targets=all",
    )  # fmt: skip
    assert made.axes == {
        "delta": delta, "scaling": scaling, "storage": storage, "grouping": grouping,
        "controller": "adalora_budget" if delta == "adalora" else "none",
    }  # fmt: skip
    found = losses(made, 10)
    assert found[-1] < 0.95 * found[0]


@pytest.mark.parametrize("variant", ADAPTERS)
def test_ranks_and_alphas_go_by_module_and_layer(variant, spec_from):
    made = spec_from(
        f"variant={variant}", "r=2", "targets=qv", "alpha=4.0",
        'variant.rank_pattern="query=4,layer.2.*=6"', "variant.alpha_pattern=value=12",
    )  # fmt: skip
    slots = attached(made).slots(0)
    ratio = 1.5 if variant == "adalora" else 1
    for name, (held, k) in slots.items():
        slot = held.delta.slots[k]
        r = 4 if name.endswith("query") else 6 if ".layer.2." in name else 2
        assert (slot.target_rank, slot.rank) == (r, int(ratio * r))
        alpha = 12 if name.endswith("value") else 4
        assert slot.scale == pytest.approx(alpha / (slot.rank**0.5 if variant == "rslora" else slot.rank))
    assert len(slots) == 2 * BLOCKS


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("rank_pattern=querry=4", "rank_pattern: 'querry' matches none of the adapted maps.*'query'"),
        ("rank_pattern=query=2.5", r"rank 2\.5 of .*query must be a whole number"),
        ("rank_pattern=query=21", "rank 21 does not fit"),
        ("layers=7", "match nothing in layers 7; they are in layers 0 to 2"),
        ("unfreeze_top=4", "unfreeze_top 4: the model has 3 blocks"),
        ("unfreeze_top=3", "unfreeze_top 3 leaves none of targets 'qv' to adapt"),
    ],
)
def test_an_option_that_cannot_be_is_told(option, message, spec_from):
    with pytest.raises(ValueError, match=message):
        attached(spec_from("r=2", f"variant.{option}"))


@pytest.mark.parametrize(
    ("option", "value"),
    [("rank_pattern", "query"), ("alpha_pattern", "query=much"), ("rank_pattern", "query=nan")],
)
def test_a_pattern_that_cannot_be_read_is_told_before_anything_is_loaded(option, value, composed, spec_from):
    message = f"{option} '{value}' cannot be read: write patterns .*query=4,value=16"
    config, choices = composed("r=2", f"variant.{option}={value}")
    [told] = check_composition(config, choices=choices)
    assert re.match(rf"variant\.{message}", told)
    run = run_config(spec_from("r=2"), steps=40)
    with pytest.raises(ValueError, match=message):  # of whoever builds a run without the command line
        attach(bert(), [replace(run, options={**run.options, option: value})])


@pytest.mark.parametrize("variant", ADAPTERS)
def test_layers_are_a_range(variant, spec_from):
    found = attached(spec_from(f"variant={variant}", "r=2", "targets=qv", "variant.layers=1-2")).slots(0)
    assert {name.split(".")[3] for name in found} == {"1", "2"}


@pytest.mark.parametrize("init", ["kaiming", "gaussian"])
@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_a_starts_as_asked(variant, init, spec_from):
    made = attached(spec_from(f"variant={variant}", "r=8", f"variant.init={init}", "targets=all"))
    A = torch.cat(
        [t.parameter.flatten() for t in made.trained if t.role == "in" and t.parameter.shape[2] == D]
    )
    expected = 1 / (3 * D) if init == "kaiming" else 1 / D
    assert A.var().item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("variant", ADAPTERS)
def test_the_top_blocks_learn_beside_adapters_and_are_counted(variant, spec_from):
    words = (f"variant={variant}", "r=2", "targets=qv")
    made = attached(spec_from(*words, "variant.unfreeze_top=1"))
    block = bert().bert.encoder.layer[0]
    below = attached(spec_from(*words, "variant.layers=0-1"))
    assert made.count(0) == below.count(0) + sum(p.numel() for p in block.parameters())
    assert {t.name.split(".")[3] for t in made.trained if t.plain} == {"2"}
    assert set(made.slots(0)) == set(below.slots(0))
    found = losses(spec_from(*words, "variant.unfreeze_top=1"), 10)
    assert found[-1] < 0.95 * found[0]


def test_such_a_run_is_merged_and_refused_as_an_adapter(spec_from, tmp_path):
    made = attached(spec_from("r=2", "variant.unfreeze_top=1"))
    with pytest.raises(ValueError, match="no adapter holds: merge it instead"):
        write_peft(made, 0, tmp_path / "adapter")


@pytest.mark.parametrize(("first", "last"), [("0.1", "0.5"), ("4", "20"), ("4", "0.5")])
def test_the_budget_is_given_in_shares_or_in_steps(first, last, spec_from):
    made = attached(spec_from("variant=adalora", f"variant.t_init={first}", f"variant.t_final={last}"))
    schedule = made.summary(0)["budget_schedule"]
    assert (schedule["t_init"], schedule["t_final"]) == (4, 20)


def test_a_part_of_a_step_is_refused(spec_from):
    with pytest.raises(ValueError, match=r"whole numbers of steps from 1 on, not 2\.5"):
        attached(spec_from("variant=adalora", "variant.t_init=2.5"))


def test_what_is_stored_is_in_the_facts_of_a_run(spec_from):
    facts = [
        attached(spec_from("variant=qlora", "r=2", f"variant.double_quant={d}")).summary(0)
        for d in ("true", "false")
    ]
    # these maps are of 400 and 880 weights: the last, partly filled blocks cost more than in a large layer
    assert 4.127 < facts[0]["bits_per_weight"] < facts[1]["bits_per_weight"] < 4.8
    assert json.dumps(facts)
