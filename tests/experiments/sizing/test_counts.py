"""What is counted before a run is what an attached model has: parameters, roles, bytes, scales and rates."""

import dataclasses
from pathlib import Path

import pytest

from experiments import models
from experiments.config.groups import Conf
from experiments.sizing.counts import adapter_roles, base_bytes, count, effective_scale, rates
from experiments.sizing.skeleton import skeleton as skeleton_of

CONF = Conf(Path(__file__).resolve().parents[3] / "conf")
ADAPTERS = [n for n in CONF.choices("variant") if CONF.read("variant", n)["method"] == "adapters"]
INSERTED = ["houlsby", "pfeiffer", "prefix", "ptuning_v2", "prompt", "ia3"]
VARIANTS = [*ADAPTERS, "full", "bitfit", "probe", "zero", *INSERTED]


@pytest.fixture
def on(request, cells_of):
    """Specs of a command on a tiny model, and that model's skeleton."""

    def make(command, fixture="tiny_bert"):
        folder = request.getfixturevalue(fixture)
        return cells_of(f"{command} model=hf model.path={folder}")

    return make


@pytest.fixture
def attached():
    """A spec's model, loaded and attached as a run would."""
    from experiments.training.loop import run_config
    from variants import attach

    def make(spec, classes=3, kind="classification"):
        model, _, info = models.load(spec, kind=kind, n_labels=classes)
        return attach(models.clone(model), [run_config(spec, steps=50)], fresh=info.fresh), info

    return make


def by_role(attached):
    found = {}
    for t in attached.trained:
        size = t.parameter.numel() if t.plain else t.parameter[0].numel()
        found[t.role] = found.get(t.role, 0) + size
    return found


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("fixture", ["tiny_bert", "tiny_gpt2", "tiny_llama", "tiny_modernbert"])
def test_a_run_trains_what_was_counted(on, attached, variant, fixture):
    if variant == "bitfit" and fixture in ("tiny_llama", "tiny_modernbert"):
        return  # have no biases, and are refused
    (spec,) = on(f"variant={variant} r=5 targets=all", fixture)
    found = count(spec, skeleton_of(spec), 3)
    theirs, info = attached(spec)
    assert {role: n for role, n in found.roles.items() if n} == by_role(theirs)
    assert found.trained == theirs.count(0)
    assert found.total == info.parameters + (0 if spec.method == "full" else theirs.count(0))


@pytest.mark.parametrize("fixture", ["tiny_gpt2", "tiny_llama"])  # the head of the first is its embedding
@pytest.mark.parametrize("variant", ["dora", "full"])
def test_a_language_model_has_no_head_of_its_runs(on, attached, variant, fixture):
    (spec,) = on(f"variant={variant} r=3", fixture)
    theirs, info = attached(spec, None, "causal")
    found = count(spec, skeleton_of(spec), 0)
    assert (found.head, found.trained) == (0, theirs.count(0))
    assert found.total == info.parameters + (0 if variant == "full" else theirs.count(0))


def test_ranks_by_pattern_and_chosen_layers_are_counted(on, attached):
    (spec,) = on("variant=adalora r=4 targets=all variant.layers=1")
    options = {**spec.options, "rank_pattern": "query=7,layer.1.output.dense=3"}
    spec = dataclasses.replace(spec, options=options)
    theirs, _ = attached(spec)
    assert count(spec, skeleton_of(spec), 3).trained == theirs.count(0)


def test_blocks_that_learn_as_a_whole_are_unknown_not_counted_as_adapted(on, attached):
    (spec,) = on("variant=lora r=4 targets=all variant.unfreeze_top=1")
    (without,) = on("variant=lora r=4 targets=all")
    counted = count(without, skeleton_of(spec), 3)
    assert attached(spec)[0].count(0) != counted.trained  # what it would be taken for
    assert count(spec, skeleton_of(spec), 3) is None and adapter_roles(spec, skeleton_of(spec)) is None


@pytest.mark.parametrize(
    ("variant", "adapter"),
    [
        ("lora", 8 * (384 + 384) * 12),  # q and v of 6 layers
        ("rslora", 73_728),
        ("dora", 73_728 + 12 * 384),  # and a magnitude per output
        ("adalora", 12 * (12 * 768 + 12)),  # starts at rank 12, with as many singular values
        ("houlsby", 12 * (2 * 384 * 64 + 64 + 384) + 2 * 13 * 384),  # 2 in 6 blocks, 13 norms of 2 vectors
        ("pfeiffer", 6 * (2 * 384 * 48 + 48 + 384)),
        ("prefix", 10 * 384 + 384 * 512 + 512 + 512 * 12 * 384 + 12 * 384),
        ("ptuning_v2", 10 * 12 * 384),  # keys and values of 6 layers
        ("prompt", 20 * 384),
        ("ia3", 6 * (384 + 384 + 1536)),
    ],
)
def test_minilm_by_hand(cells_of, variant, adapter):
    (spec,) = cells_of(f"variant={variant} r=8 targets=qv")
    skeleton = skeleton_of(spec)
    if skeleton is None:
        pytest.skip("MiniLM is not installed")
    found = count(spec, skeleton, 13)
    assert (found.adapter, found.head) == (adapter, 13 * 385)
    assert found.total == 22_713_216 + 13 * 385 + found.trained  # the published 22.7M


def test_all_maps_of_minilm_by_hand(cells_of):
    (spec,) = cells_of("variant=qlora r=2")
    skeleton = skeleton_of(spec)
    if skeleton is None:
        pytest.skip("MiniLM is not installed")
    assert sum(adapter_roles(spec, skeleton).values()) == 2 * 6 * (4 * 768 + 2 * (384 + 1536))


@pytest.mark.parametrize("storage", ["fp32", "bf16", "nf4", "int4"])
@pytest.mark.parametrize("variant", ["lora", "probe", "zero"])
@pytest.mark.parametrize("fixture", ["tiny_bert", "tiny_modernbert"])
def test_the_base_takes_the_bytes_that_were_counted(on, attached, storage, variant, fixture):
    if storage.endswith("4"):
        pytest.importorskip("bitsandbytes")
    (spec,) = on(f"variant={variant} variant.storage={storage}", fixture)
    theirs, _ = attached(spec)
    assert base_bytes(spec, skeleton_of(spec), 3) == theirs.base_bytes()


@pytest.mark.parametrize("double_quant", ["true", "false"])
@pytest.mark.parametrize("storage", ["nf4", "fp4", "int4"])
def test_scales_of_scales_are_counted(on, attached, storage, double_quant):
    pytest.importorskip("bitsandbytes")
    (spec,) = on(f"variant=qlora variant.storage={storage} variant.double_quant={double_quant}")
    theirs, _ = attached(spec)
    assert base_bytes(spec, skeleton_of(spec), 3) == theirs.base_bytes()


@pytest.mark.parametrize("variant", ADAPTERS)
def test_the_scale_is_the_one_at_work(on, attached, variant):
    (spec,) = on(f"variant={variant} r=5 alpha=7")
    assert effective_scale(spec) == pytest.approx(attached(spec)[0].summary(0)["scale"])


def test_rules_that_are_not_known_here_are_not_guessed(cells_of):
    (spec,) = cells_of("variant=lora")
    strange = lambda **axes: dataclasses.replace(spec, axes={**spec.axes, **axes})  # noqa: E731
    assert effective_scale(strange(scaling="another")) is None
    assert rates(strange(grouping="another")) is None
    skeleton = skeleton_of(spec)
    if skeleton is not None:
        assert count(strange(delta="another"), skeleton, 3) is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_rates_are_those_that_the_optimiser_gets(cells_of, variant):
    import variants
    from experiments.training.loop import run_config

    words = "train.weight_decay=0.03 train.head_lr=0.007" + (" lr=0.002" if variant != "zero" else "")
    (spec,) = cells_of(f"variant={variant} {words}")
    theirs = variants.rates(run_config(spec, steps=50), spec.lr, spec.train.head_lr, spec.train.weight_decay)
    assert rates(spec) == theirs
