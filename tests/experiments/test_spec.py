"""A spec is its content: equal runs are equal specs with one name, and a spec survives its record."""

import dataclasses
import json
import pickle
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.bench.fake import specs_of
from experiments.config.resolve import check_composition, resolve
from experiments.config.settings import STORAGE_OPTIONS
from experiments.record import cell_key
from experiments.spec import RunSpec, Train, from_record

SPEC = RunSpec(
    study="demo", variant="dora", method="adapters", r=8, alpha=16.0, targets="qv",
    axes={"delta": "dora", "scaling": "alpha_over_r", "storage": "fp32", "grouping": "uniform"},
    options={"dropout": 0.0, "layers": None}, model="minilm",
    model_options={"name": "org/model", "revision": "abc", "path": None}, dataset="scipy_topics",
    dataset_options={"max_length": 48}, lr=0.005, train=Train(head_lr=0.005), seed=0,
)  # fmt: skip
CHOICES = {"variant": "lora", "model": "minilm"}


def changed(**values):
    return dataclasses.replace(SPEC, **values)


def config(variant=None, train=None, **values):
    """A composed configuration for `resolve`."""
    adapters = {
        "name": "lora", "paper": None, "method": "adapters", "uses": ["r", "alpha", "targets", "lr"],
        "ranges": {}, "delta": "lora", "scaling": "alpha_over_r", "storage": None, "grouping": "uniform",
        "controller": "none", "lr": 0.005, "head_lr": 0.004, "targets": "qv", "dropout": 0.0,
    }  # fmt: skip
    return {
        "variant": adapters | (variant or {}), "model": {"name": "org/model", "path": None},
        "dataset": {"name": "scipy_topics", "max_length": 48}, "tracker": {"name": "none"},
        "train": dataclasses.asdict(Train()) | (train or {}), "r": 8, "alpha": 16.0, "targets": None,
        "lr": None, "seed": 0, "study": "demo", "signatures": True, **values,
    }  # fmt: skip


# --- which runs belong together


@pytest.mark.parametrize(
    ("change", "base", "pack", "cell"),
    [
        ({"seed": 3}, True, True, True),
        ({"repeat": 2}, True, True, True),
        ({"study": "another", "tracker": {"name": "wandb"}, "signatures": False}, True, True, True),
        ({"train": Train(head_lr=0.005, threads=3)}, True, False, True),
        ({"alpha": 16, "lr": float("5e-3")}, True, True, True),
        ({"model_options": {**SPEC.model_options, "path": "elsewhere"}}, True, True, True),
        ({"matched": 4}, True, True, True),
        ({"phase": "tune"}, True, True, False),
        ({"r": 5}, True, True, False),
        ({"lr": 0.007}, True, True, False),
        ({"targets": ("key", "value")}, True, True, False),
        ({"variant": "lora", "axes": {**SPEC.axes, "delta": "lora"}}, True, True, False),
        ({"options": {"dropout": 0.25}}, True, True, False),
        ({"train": Train(head_lr=0.005, schedule="cosine", weight_decay=0.1)}, True, True, False),
        ({"train": Train(head_lr=0.005, steps=151)}, True, True, False),
        ({"train": Train(head_lr=0.005, batch_size=12)}, True, False, False),
        ({"train": Train(head_lr=0.005, micro_batch_size=4)}, True, False, False),
        ({"train": Train(head_lr=0.005, precision="bf16")}, True, False, False),
        ({"train": Train(head_lr=0.005, gradient_checkpointing=True)}, True, False, False),
        ({"dataset_options": {"max_length": 64}}, True, False, False),
        ({"dataset_options": {"max_length": 48, "path": "other.csv"}}, True, False, False),
        ({"method": "probe"}, True, False, False),
        ({"train": Train(head_lr=0.005, base_dropout=0.1)}, False, False, False),
        ({"axes": {**SPEC.axes, "storage": "nf4"}}, False, False, False),
        ({"model_options": {"name": "org/model", "revision": "def"}}, False, False, False),
        ({"model": "hf"}, False, False, False),
    ],
    ids=str,
)
def test_what_two_runs_may_share(change, base, pack, cell):
    other = changed(**change)
    assert (other.base_key() == SPEC.base_key()) is base
    assert (other.pack_key() == SPEC.pack_key()) is pack
    assert (other.cell_key() == SPEC.cell_key()) is cell
    assert hash(other.pack_key()) == hash(SPEC.pack_key()) or not pack


def test_a_base_in_four_bits_is_known_by_how_it_is_quantised():
    nf4 = changed(axes={**SPEC.axes, "storage": "nf4"}, options={"double_quant": True})
    single = dataclasses.replace(nf4, options={"double_quant": False})
    assert nf4.base_key() != single.base_key()
    assert (
        nf4.base_key() == dataclasses.replace(nf4, options={"double_quant": True, "init": "eva"}).base_key()
    )
    from_dense = dataclasses.replace(nf4, options={"double_quant": True, "init": "loftq"})
    assert nf4.base_key() != from_dense.base_key()  # loaded dense, as A and B start from what is lost
    top = dataclasses.replace(nf4, options={"unfreeze_top": 2})
    assert top.base_key() == changed(r=3).base_key()  # both are loaded dense


def test_every_option_of_a_storage_is_in_the_key_of_the_base():
    variants = pytest.importorskip("variants")
    named = {option for name in variants.names("storage") for option in variants.reads("storage", name)}
    assert named == set(STORAGE_OPTIONS)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "full"},
        {"method": "bitfit"},
        {"options": {"unfreeze_top": 1}},
        {"train": Train(head_lr=0.005, base_dropout=0.1)},
    ],
)
def test_a_run_whose_base_learns_trains_alone(change):
    assert changed(**change).pack_key() is None


def test_a_record_has_the_cell_key_of_its_spec():
    spec = changed(targets=("query", "value"), train=Train(head_lr=0.005, epochs=1.5, steps=None), seed=4)
    assert cell_key(json.loads(json.dumps(spec.as_record()))) == spec.cell_key()


def test_a_cell_key_may_leave_out_what_was_tuned():
    other = changed(lr=0.01, options={"dropout": 0.5})
    assert other.cell_key("lr", "variant_options.dropout") == SPEC.cell_key("lr", "variant_options.dropout")
    assert other.cell_key("lr") != SPEC.cell_key("lr")


# --- identity


def test_a_run_id_is_readable_and_ends_in_the_hash():
    assert re.fullmatch(r"dora-r8-qv-scipy_topics-s0-[0-9a-f]{8}", SPEC.run_id("data"))
    assert SPEC.run_id("data").endswith(SPEC.hash("data")[:8])
    assert SPEC.cell() == "dora-r8-qv-scipy_topics"


@pytest.mark.parametrize(
    "same",
    [
        {"study": "another"},
        {"signatures": False},
        {"tracker": {"name": "wandb", "mode": "offline"}},
        {"train": Train(head_lr=0.005, threads=7)},
        {"alpha": 16},
        {"options": {"dropout": 0}},
        {"lr": float("5e-3")},
        {"model_options": {**SPEC.model_options, "path": "elsewhere"}},
        {"dataset_options": {"max_length": 48, "path": "moved.csv"}},
    ],
    ids=str,
)
def test_what_does_not_decide_the_result_is_not_hashed(same):
    assert changed(**same).run_id("data") == SPEC.run_id("data")


@pytest.mark.parametrize(
    "other",
    [
        {"variant": "lora"},
        {"r": 4},
        {"alpha": 16.5},
        {"targets": ("query", "value")},
        {"axes": {**SPEC.axes, "storage": "nf4"}},
        {"options": {"dropout": 0.1}},
        {"model_options": {"name": "org/model", "revision": "def"}},
        {"dataset_options": {"max_length": 64}},
        {"lr": 0.0050001},
        {"train": Train(head_lr=0.005, steps=151)},
        {"seed": 1},
        {"phase": "tune"},
        {"phase": "confirm"},
        {"phase": "confirm", "tuned": ("lr",)},
        {"repeat": 1},
    ],
    ids=str,
)
def test_what_decides_the_result_is_hashed(other):
    assert changed(**other).hash("data") != SPEC.hash("data")


def test_other_data_is_another_run():
    assert SPEC.hash("data") != SPEC.hash("other data")


def test_the_hash_is_the_same_in_every_process():
    # A change of this value makes all finished runs run again.
    assert SPEC.hash("data") == "51dbd6920c79ad8f699e488c570cfee983c872e436231ab4fc1800ec45b6d033"


@pytest.mark.parametrize(
    ("targets", "name"),
    [
        (None, "dora-r8-"),
        (("query", "value"), "dora-r8-query-value-"),
        (("a.very.long.name", "another.of.them"), r"dora-r8-list[0-9a-f]{6}-"),
        ("re:.*query", r"dora-r8-re[0-9a-f]{6}-"),
    ],
)
def test_targets_that_are_no_preset_have_a_short_name(targets, name):
    assert re.match(name, changed(targets=targets).cell())


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # a busy machine is no fault
@given(st.text(max_size=80), st.text(max_size=80), st.integers(0, 10**9))
def test_a_run_id_is_a_safe_name_whatever_goes_in(variant, dataset, seed):
    run_id = changed(variant=variant or "x", dataset=dataset or "y", seed=seed).run_id("data")
    assert re.fullmatch(r"[a-z0-9_-]{1,64}", run_id)


# --- frozen


def test_a_spec_is_a_key_and_cannot_change():
    assert len({SPEC, changed(), changed(seed=1)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.r = 4
    with pytest.raises(TypeError, match="cannot be changed"):
        SPEC.options["dropout"] = 0.1
    with pytest.raises(TypeError, match="cannot be changed"):
        SPEC.model_options.update(path="x")


def test_a_spec_goes_to_another_process_whole():
    assert pickle.loads(pickle.dumps(SPEC)) == SPEC


def test_what_is_not_set_is_absent():
    assert "layers" not in SPEC.options
    record = changed(r=None, alpha=None, targets=None).as_record()
    assert not {"r", "alpha", "targets"} & record.keys()
    assert "epochs" not in record["train"]


# --- through a record and back

names = st.text("abcdefgh_", min_size=1, max_size=8)
numbers = st.floats(1e-8, 1e8)
values = st.none() | st.booleans() | st.integers(-9, 9) | numbers | st.text(max_size=9) | st.lists(names)
options = st.dictionaries(names, values, max_size=4)
specs = st.builds(
    RunSpec,
    study=names,
    variant=names,
    method=names,
    r=st.none() | st.integers(1, 999),
    alpha=st.none() | numbers,
    targets=st.none() | names | st.lists(names, min_size=1).map(tuple),
    axes=st.dictionaries(names, names, max_size=5),
    options=options,
    model=names,
    model_options=options,
    dataset=names,
    dataset_options=options,
    lr=numbers,
    train=st.builds(
        Train,
        steps=st.none() | st.integers(1, 99),
        epochs=st.none() | numbers,
        warmup=st.floats(0, 1),
        gradient_checkpointing=st.booleans(),
    ),
    seed=st.integers(0, 10**9),
    tracker=options,
)


@given(specs)
def test_a_spec_comes_back_from_its_record(spec):
    record = json.loads(json.dumps(spec.as_record(), allow_nan=False))
    assert from_record(record) == spec
    assert hash(from_record(record)) == hash(spec)
    assert from_record(record).hash("data") == spec.hash("data")


# --- from a configuration


def test_null_is_the_variants_own():
    spec = resolve(config(), choices=CHOICES)
    assert (spec.lr, spec.train.head_lr, spec.targets) == (0.005, 0.004, "qv")
    assert spec.axes["storage"] == "fp32"
    assert dict(spec.options) == {"dropout": 0.0}


@pytest.mark.parametrize(
    ("scaling", "r", "alpha", "lr"),
    [
        ("alpha_over_r", 64, 16.0, 0.005),  # s r is 16
        ("alpha_over_r", 3, 4.0, 0.01),
        ("alpha_over_sqrt_r", 64, 4.0, 0.00354),  # 32
        ("alpha_over_sqrt_r", 4, 8.0, 0.005),  # 16
        ("constant", 16, 4.0, 0.0025),  # 64
    ],
)
def test_the_variants_own_rate_falls_with_the_root_of_scale_times_rank(scaling, r, alpha, lr):
    own = {"scaling": scaling}
    assert resolve(config(own, r=r, alpha=alpha), choices=CHOICES).lr == pytest.approx(lr, rel=1e-9)
    assert resolve(config(own, r=r, alpha=alpha, lr=0.007), choices=CHOICES).lr == 0.007
    unscaled = {**own, "uses": ["r", "targets", "lr"]}
    assert resolve(config(unscaled, r=r, alpha=alpha), choices=CHOICES).lr == 0.005


def test_storage_follows_the_precision():
    assert resolve(config(train={"precision": "bf16"}), choices=CHOICES).axes["storage"] == "bf16"
    fixed = config({"storage": "nf4"}, {"precision": "bf16"})
    assert resolve(fixed, choices=CHOICES).axes["storage"] == "nf4"


def test_a_head_rate_of_null_in_the_variant_too_is_the_learning_rate():
    spec = resolve(config({"head_lr": None}, lr=0.02), choices=CHOICES)
    assert spec.train.head_lr == spec.lr == 0.02


def test_keys_that_a_variant_does_not_use_drop_out():
    full = {"method": "full", "uses": ["lr"], "delta": "none"}
    one, other = (
        resolve(config(full, r=r, alpha=a, targets=t), choices=CHOICES)
        for r, a, t in [(4, 8, "qv"), (16, 32, "all")]
    )
    assert one == other
    assert (one.r, one.alpha, one.targets, dict(one.axes)) == (None, None, None, {"storage": "fp32"})


def test_a_model_in_a_folder_is_known_by_what_it_holds(tmp_path):
    for name in ("here", "there", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"x" * 100_000 + name[-1:].encode())
    here, there, other = (
        resolve(config(model={"name": None, "path": str(tmp_path / n)}), choices=CHOICES)
        for n in ("here", "there", "other")
    )
    assert here.hash("data") == there.hash("data") != other.hash("data")
    by_name = resolve(config(model={"name": str(tmp_path / "here"), "path": None}), choices=CHOICES)
    assert by_name.hash("data") == here.hash("data")


def test_a_pruned_rank_starts_above_its_target():
    assert SPEC.initial_rank == 8
    adalora = {"axes": {**SPEC.axes, "delta": "adalora"}, "options": {"init_r_ratio": 1.5}}
    assert changed(**adalora).initial_rank == 12
    assert changed(**adalora, r=3).initial_rank == 5
    assert changed(options={"init_r_ratio": 1.5}).initial_rank == 8  # of no other delta
    assert changed(r=None).initial_rank is None


@pytest.mark.parametrize(
    ("variant", "train", "told"),
    [
        ({"controller": "adalora_budget"}, {}, "variant.delta=adalora"),
        ({"delta": "none"}, {}, "variant=probe"),
        ({"t_init": 0.6, "t_final": 0.5}, {}, "no steps to prune in"),
        ({"t_init": 100.0, "t_final": 0.5}, {}, "no steps to prune in"),
        ({"method": "full", "delta": "none", "storage": "nf4"}, {}, "nf4 cannot be trained"),
        ({"method": "full", "delta": "none", "grouping": "lora_plus"}, {}, "no adapters"),
        ({"method": "probe", "delta": "lora"}, {}, "no adapters"),
        ({}, {"steps": 5, "epochs": 1.0}, "give one of them"),
        ({}, {"steps": None}, "needs a length"),
        ({}, {"micro_batch_size": 3}, "1, 2, 4, 8, 16"),
    ],
)
def test_a_combination_that_cannot_be_is_refused_in_a_sentence(variant, train, told):
    (sentence,) = check_composition(config(variant, train), choices=CHOICES)
    assert told in sentence


def test_every_wrong_combination_is_told():
    wrong = config({"delta": "none"}, {"micro_batch_size": 3, "epochs": 1.0})
    assert len(check_composition(wrong, choices=CHOICES)) == 3


def test_papers_are_combined_freely():
    qdora = config({"delta": "dora", "storage": "nf4", "scaling": "alpha_over_sqrt_r"})
    assert check_composition(qdora, choices=CHOICES) == []


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("", "r", "4"), ("", "r", True), ("", "r", 2.5), ("", "alpha", []), ("", "lr", None),
        ("", "seed", "0"), ("", "variant", 3), ("", "targets", {"a": 1}),
        ("", "targets", [1]), ("", "variant_axes", {"delta": 3}),
        ("", "variant_options", []), ("", "train", []), ("", "model_options", "x"), ("", "tuned", "lr"),
        ("train", "steps", "5"), ("train", "batch_size", {}), ("train", "unknown", 1), ("", "study", "../x"),
    ],
    ids=str,
)  # fmt: skip
def test_what_as_record_cannot_have_written_is_no_spec(part, key, value):
    [spec] = specs_of("variant=dora")
    written = spec.as_record()
    assert from_record(written) == spec
    place = written[part] if part else written
    place[key] = value
    with pytest.raises(ValueError, match=r"spec|study"):
        from_record(written)


@pytest.mark.parametrize("value", [None, [], "x", {}, 3])
def test_nor_is_what_is_no_mapping(value):
    with pytest.raises(ValueError, match=r"spec|study"):
        from_record(value)
