"""Which rows a run sees, and how rows are grouped for evaluation."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from experiments.training.batch import ROUNDED, Order, by_length, gather, length_groups
from experiments.training.losses import count_targets, row_losses


@pytest.fixture
def encoded():
    lengths = torch.tensor([3, 16, 17, 40, 48, 1, 33])
    mask = (torch.arange(48)[None] < lengths[:, None]).long()
    return SimpleNamespace(
        extra={},
        ids=[str(i) for i in range(7)],
        input_ids=mask * 5,
        attention_mask=mask,
        labels=torch.arange(7) % 3,
    )


def test_an_epoch_shows_every_row_once():
    seen = torch.cat([Order(seed=3, rows=35).take(step, 7) for step in range(5)])
    assert sorted(seen.tolist()) == list(range(35))


def test_a_step_is_the_same_whenever_it_is_asked_for():
    straight = Order(seed=3, rows=10)
    walked = [straight.take(step, 4) for step in range(20)]
    resumed = Order(seed=3, rows=10)
    assert all(torch.equal(resumed.take(step, 4), walked[step]) for step in (19, 7, 3))


def test_seeds_and_epochs_are_shuffled_differently():
    order = Order(seed=0, rows=50)
    first, second = order.take(0, 50), order.take(1, 50)
    assert not torch.equal(first, second)
    assert not torch.equal(first, Order(seed=1, rows=50).take(0, 50))


def test_evaluation_covers_every_row_once_and_cuts_nothing_but_padding(encoded):
    batches = by_length(encoded, size=2)
    assert sorted(torch.cat([rows for rows, _ in batches]).tolist()) == list(range(7))
    for rows, length in batches:
        batch = gather(encoded, rows, length)
        assert batch.attention_mask.sum() == encoded.attention_mask[rows].sum()
        assert batch.input_ids.shape == (len(rows), length)


def test_the_length_of_a_row_does_not_depend_on_its_neighbours(encoded):
    together = {r: length for rows, length in by_length(encoded, size=3) for r in rows.tolist()}
    assert together == {0: 4, 1: 16, 2: 20, 3: 40, 4: 48, 5: 4, 6: 36}
    for row, length in together.items():
        alone = SimpleNamespace(**{k: v[row : row + 1] for k, v in vars(encoded).items() if k != "extra"})
        assert by_length(alone, size=3)[0][1] == length


def test_long_rows_have_few_length_classes_and_little_padding():
    lengths = torch.arange(0, 1000)
    mask = torch.arange(1000)[None] < lengths[:, None]
    classes = {r: n for rows, n in by_length(SimpleNamespace(input_ids=mask, attention_mask=mask), size=64)
               for r in rows.tolist()}  # fmt: skip
    assert len(set(classes.values())) < 50 and classes[0] == 4 and classes[301] == 320
    assert all(n <= classes[n] < n + max(4, n / 8) for n in range(1, 1000))


@pytest.mark.parametrize("fixed", [0, 10, 40, 10**6])
def test_groups_by_length_hold_every_row_of_every_run_once_and_cut_nothing_but_padding(encoded, fixed):
    rows = [torch.tensor([0, 3, 5, 1, 6, 2]), torch.tensor([4, 4, 2, 6, 0, 3])]
    groups = length_groups(encoded, rows, fixed=fixed)
    for k, expected in enumerate(rows):
        assert sorted(torch.cat([group[k] for group, _ in groups]).tolist()) == sorted(expected.tolist())
    for group, columns in groups:
        batch = gather(encoded, torch.cat(group), columns)
        longest = int(encoded.attention_mask[torch.cat(group)].sum(1).max())
        assert batch.attention_mask.sum() == encoded.attention_mask[torch.cat(group)].sum()
        assert longest <= columns <= min(longest + ROUNDED - 1, encoded.input_ids.shape[1])
        assert len(group[0]) == len(group[1])
    # sorted: 1 3 16 17 33 40 and 3 17 33 40 48 48; the longer of the two in fours; every way to cut them
    width = [4, 20, 36, 40, 48, 48]
    costs = {}
    for cuts in itertools.chain.from_iterable(itertools.combinations(range(1, 6), n) for n in range(6)):
        parts = list(itertools.pairwise([0, *cuts, 6]))
        costs[cuts] = sum(2 * (end - start) * width[end - 1] + fixed for start, end in parts)
    taken = tuple(itertools.accumulate(len(group[0]) for group, _ in groups))[:-1]
    assert costs[taken] == min(costs.values())


def test_class_losses_are_minus_log_softmax():
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0]])
    losses = row_losses(logits, torch.tensor([1, 2]))
    by_hand = [
        -(logits[0, 1].double() - logits[0].double().exp().sum().log()),
        torch.tensor(3.0).double().log(),
    ]
    torch.testing.assert_close(losses.total.double(), torch.stack(by_hand), rtol=1e-6, atol=1e-6)
    assert losses.predicted.tolist() == [0, 0]


def test_text_losses_count_the_completion_alone():
    logits = torch.randn(2, 5, 11, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[-100, -100, 4, 7, -100], [-100, 2, 3, 9, 10]])
    losses = row_losses(logits, labels)
    logs = logits.double().log_softmax(-1)
    by_hand = [
        -(logs[0, 1, 4] + logs[0, 2, 7]),
        -(logs[1, 0, 2] + logs[1, 1, 3] + logs[1, 2, 9] + logs[1, 3, 10]),
    ]
    torch.testing.assert_close(losses.total.double(), torch.stack(by_hand), rtol=1e-6, atol=1e-6)
    assert losses.targets.tolist() == count_targets(labels).tolist() == [2, 4]
