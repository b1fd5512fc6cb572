"""Two cells are never shown alike: what tells them apart gets a column."""

from rich.console import Console

from experiments.console.summary import distinguishing, results_table, value_at

SHOWN = ("variant", "r")


def spec(**values):
    return {"variant": "lora", "r": 8, "seed": 0, "variant_options": {"layers": "0", "init": "a"}, **values}


def test_only_what_tells_cells_of_one_look_apart_is_found():
    layers = {"variant_options": {"layers": "0,1", "init": "a"}}
    assert distinguishing([spec(), spec(**layers)], SHOWN) == ["variant_options.layers"]
    assert distinguishing([spec(), spec(r=4, **layers)], SHOWN) == []
    assert distinguishing([spec(), spec(seed=5, study="x", tracker={"name": "wandb"})], SHOWN) == []
    assert distinguishing([spec(), spec(variant_options={"layers": "0"})], SHOWN) == ["variant_options.init"]
    assert value_at(spec(), "variant_options.layers") == "0"
    assert value_at(spec(), "train.steps") is None


def test_cells_that_differ_in_an_option_are_rows_of_their_own(capsys):
    records = [
        {
            "spec": spec(seed=seed, variant_options={"layers": layers}),
            "status": "completed",
            "primary": {"metric": "accuracy"},
            "metrics": {"test/accuracy": score + seed / 100},
        }
        for layers, score in (("0", 0.5), ("1", 0.75))
        for seed in (0, 2)
    ]
    Console(width=100).print(results_table(records, width=100))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "lora" in line]
    assert [(line[3], line[6], line[7]) for line in lines] == [
        ("0", "0.510", "0.500-0.520"), ("1", "0.760", "0.750-0.770"),
    ]  # fmt: skip
