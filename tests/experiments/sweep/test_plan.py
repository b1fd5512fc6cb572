"""What of a sweep is run: the product of its words, each run once, nothing that ended before."""

import json
from pathlib import Path

from experiments.sweep.plan import plan


def planned(specs, root=Path("nowhere")):
    return plan(specs, fingerprints=lambda spec: spec.dataset, root=root)


def finish(root, spec, status="completed"):
    """Leave the record of a run that ended."""
    run_id = spec.run_id(spec.dataset)
    folder = root / spec.study / run_id
    folder.mkdir(parents=True)
    record = {"schema": 1, "run_id": run_id, "study": spec.study, "status": status, "spec": spec.as_record()}
    (folder / "record.json").write_text(json.dumps(record))


# --- the product


def test_the_cells_are_the_product_in_the_order_of_the_words(cells_of):
    specs = cells_of("variant=dora,lora r=4,8 seed=0,1")
    found = [(s.variant, s.r, s.seed) for s in specs]
    assert found == [(v, r, s) for v in ("dora", "lora") for r in (4, 8) for s in (0, 1)]


def test_each_variant_brings_its_own_defaults(cells_of):
    lora, loraplus, qlora = cells_of("variant=lora,loraplus,qlora")
    assert (lora.lr, loraplus.lr) == (0.004, 0.00125)
    assert loraplus.options["lr_ratio"] == 8.0
    assert (lora.targets, qlora.targets, qlora.axes["storage"]) == ("qv", "all", "nf4")


def test_a_swept_value_is_converted_as_its_key_asks(cells_of):
    one, two = cells_of("alpha=8,16 variant.dropout=0")
    assert isinstance(one.alpha, float)
    assert isinstance(one.options["dropout"], float)
    assert one.r == two.r == 8


def test_a_cell_does_not_change_its_neighbours(cells_of):
    specs = cells_of("variant=loraplus variant.lr_ratio=4,16 train.steps=10,20 dataset.max_length=8,16")
    found = [(s.options["lr_ratio"], s.train.steps, s.dataset_options["max_length"]) for s in specs]
    assert found == [(a, b, c) for a in (4.0, 16.0) for b in (10, 20) for c in (8, 16)]


def test_equal_parts_of_many_cells_are_one_object(cells_of):
    first, *others = cells_of("seed=range(0,50)")
    assert all(spec.train is first.train and spec.options is first.options for spec in others)


def test_lists_of_modules_are_equal_in_any_order(cells_of):
    one, other = cells_of("targets=[query,value],[value,query]")
    assert one == other


# --- what is missing


def test_a_run_that_several_cells_ask_for_is_run_once(cells_of):
    result = planned(cells_of("variant=full r=4,8,16"))
    assert (len(result.todo), result.duplicates) == (1, 2)
    assert "2 of 3 runs are the same run as another one (variant=full) and are run once." in result.notes


def test_a_repeated_seed_is_one_run(cells_of):
    assert [spec.seed for spec, _ in planned(cells_of("seed=0,1,0")).todo] == [0, 1]


def test_runs_that_ended_are_not_run_again(cells_of, tmp_path):
    specs = cells_of("seed=0,1,2,3 study=demo")
    finish(tmp_path, specs[0])
    finish(tmp_path, specs[1], "diverged")
    finish(tmp_path, specs[2], "failed")
    result = planned(specs, tmp_path)
    assert [spec.seed for spec, _ in result.done] == [0, 1]
    assert [spec.seed for spec, _ in result.todo] == [2, 3]
    assert any("1 of the finished runs diverged" in note for note in result.notes)


def test_another_study_runs_its_own(cells_of, tmp_path):
    finish(tmp_path, *cells_of("study=one"))
    assert len(planned(cells_of("study=two"), tmp_path).todo) == 1


def test_data_is_read_once_for_all_cells_on_it(cells_of):
    asked = []
    plan(cells_of("seed=range(0,20)"), fingerprints=lambda s: asked.append(s) or "data", root=Path("nowhere"))
    assert len(asked) == 1


def test_a_run_is_named_as_its_spec_says(cells_of):
    for spec, run_id in planned(cells_of("variant=dora r=4,8")).todo:
        assert run_id == spec.run_id(spec.dataset)
