"""Which point is best, when a grid is extended, and that all cells keep equally many points."""

import math
import random

import pytest

from experiments.sweep.tuning.grids import Axis, best, edges, equal, grown, points

RATES = (0.001, 0.002, 0.004, 0.008, 0.016)
INF = math.inf


def grid(*values, key="lr", allows=lambda value: True):
    return (Axis(key, values or RATES, allows),)


def curve(optimum, width=2.0):
    """A response with its peak at `optimum`: quadratic in the log of the rate."""
    return lambda lr: -((math.log2(lr / optimum) / width) ** 2)


def scored(cell, response):
    return {point: response(*point) for point in points(cell)}


def tuned(responses, *, extensions=4, start=RATES):
    """What the protocol does with known response curves: the grids at the end and their scores."""
    grids = {name: grid(*start) for name in responses}
    for _ in range(extensions):
        scores = {name: scored(cell, responses[name]) for name, cell in grids.items()}
        larger = grown(grids, scores)
        if larger is None:
            break
        grids = larger
        assert equal(list(grids.values()))
    return grids, {name: scored(cell, responses[name]) for name, cell in grids.items()}


# --- the best point


def test_the_highest_mean_is_best_and_a_tie_goes_to_the_smaller_rate():
    scores = dict(zip(points(grid()), (0.1, 0.5, 0.4, 0.5, 0.2), strict=True))
    assert best(grid(), scores) == (0.002,)


def test_rates_are_in_order_however_they_were_given():
    assert grid(0.004, 0.001, 0.002)[0].values == (0.001, 0.002, 0.004)


def test_a_flat_response_takes_the_smallest_rate_off_the_edge_and_asks_for_no_more():
    scores = scored(grid(), lambda lr: 0.5)
    assert best(grid(), scores) == (0.002,)
    assert edges(grid(), scores) == {}


def test_a_rate_that_was_lost_or_diverged_is_never_chosen():
    scores = {(0.001,): 0.3, (0.002,): -INF, (0.016,): -INF}  # 0.004 and 0.008 failed
    assert best(grid(), scores) == (0.001,)
    assert best(grid(), {}) is None
    assert best(grid(), dict.fromkeys(points(grid()), -INF)) is None


# --- edges


@pytest.mark.parametrize(("optimum", "side"), [(0.0001, {0: -1}), (0.004, {}), (0.1, {0: 1})])
def test_a_best_rate_at_an_end_is_on_the_edge(optimum, side):
    assert edges(grid(), scored(grid(), curve(optimum))) == side


def test_a_rate_beside_one_that_diverged_is_not_on_the_edge():
    response = curve(1.0)
    scores = scored(grid(), lambda lr: -INF if lr > 0.01 else response(lr))
    assert best(grid(), scores) == (0.008,)
    assert edges(grid(), scores) == {}


def test_where_everything_diverged_smaller_rates_come_next_and_where_everything_failed_none():
    diverged = dict.fromkeys(points(grid()), -INF)
    assert edges(grid(), diverged) == {0: -1}
    larger = grown({"a": grid()}, {"a": diverged})
    assert larger["a"][0].values == (0.0005, *RATES)
    assert grown({"a": grid()}, {"a": {}}) is None


def test_the_end_of_what_is_allowed_is_no_edge():
    decay = (Axis("train.weight_decay", (0.0, 0.01, 0.1)),)
    assert edges(decay, {(0.0,): 1.0, (0.01,): 0.5, (0.1,): 0.1}) == {}
    beta = (Axis("train.beta1", (0.5, 0.9), lambda value: value < 1),)
    assert edges(beta, {(0.5,): 0.1, (0.9,): 0.5}) == {}


def test_what_is_no_number_has_no_edge():
    axes = (Axis("train.schedule", ("linear", "cosine")),)
    assert axes[0].values == ("linear", "cosine")
    assert edges(axes, {("linear",): 0.1, ("cosine",): 0.5}) == {}
    assert not Axis("train.gradient_checkpointing", (True, False)).numeric


# --- growth


def test_the_edge_moves_outward_and_the_others_get_a_point_between_their_best_and_its_better_neighbour():
    grids = {"in": grid(), "out": grid()}
    scores = {"in": scored(grid(), curve(0.005)), "out": scored(grid(), curve(1.0))}
    larger = grown(grids, scores)
    assert larger["out"][0].values == (*RATES, 0.032)
    assert larger["in"][0].values == (0.001, 0.002, 0.004, 0.00565685, 0.008, 0.016)


@pytest.mark.parametrize("seed", range(20))
def test_simulated_cells_find_their_optimum_with_equal_final_counts(seed):
    rng = random.Random(seed)
    optima = {f"cell {i}": 0.004 * 2 ** rng.uniform(-4, 4) for i in range(5)}
    grids, scores = tuned({name: curve(optimum) for name, optimum in optima.items()})
    counts = {name: len(points(cell)) for name, cell in grids.items()}
    assert len(set(counts.values())) == 1
    for name, optimum in optima.items():
        (chosen,) = best(grids[name], scores[name])
        assert abs(math.log2(chosen / optimum)) <= 0.51
        assert edges(grids[name], scores[name]) == {}


def test_a_monotone_response_stops_at_the_limit_and_is_still_on_the_edge():
    grids, scores = tuned({"up": math.log, "round": curve(0.004)}, extensions=3)
    assert [len(points(cell)) for cell in grids.values()] == [8, 8]
    assert edges(grids["up"], scores["up"]) == {0: 1}
    assert best(grids["up"], scores["up"]) == (0.128,)


def test_without_an_edge_nothing_grows():
    assert tuned({"a": curve(0.004), "b": curve(0.003)})[0]["a"] == grid()


def test_two_keys_grow_along_the_one_that_is_on_an_edge_and_keep_one_shape():
    axes = (Axis("lr", RATES), Axis("train.weight_decay", (0.0, 0.01, 0.1)))
    responses = {"a": lambda lr, wd: math.log(lr) - wd, "b": lambda lr, wd: curve(0.004)(lr) - wd}
    larger = grown(dict.fromkeys(responses, axes), {n: scored(axes, f) for n, f in responses.items()})
    assert {name: [len(axis.values) for axis in cell] for name, cell in larger.items()} == {
        "a": [6, 3],
        "b": [6, 3],
    }
    both = grown({"c": axes}, {"c": scored(axes, lambda lr, wd: lr + wd)})
    assert [axis.values[-1] for axis in both["c"]] == [0.032, 1.0]


def test_whole_numbers_stay_whole():
    axis = Axis("train.batch_size", (8, 16, 32))
    assert axis.beyond(1) == 64
    assert axis.beyond(-1) == 4
    assert axis.between(8, 16) == 11
    assert Axis("train.steps", (2, 3, 4)).between(2, 3) is None
