"""What an evaluation says of each example."""

from types import SimpleNamespace

import pytest
import torch

from experiments.training.evaluate import _scores


def test_the_scores_of_texts_have_the_loss_over_tokens_as_their_mean():
    total, targets = torch.tensor([6.0, 1.0, 12.0]), torch.tensor([3.0, 1.0, 7.0])
    found = _scores(SimpleNamespace(kind="causal"), None, total, targets, torch.full((3,), -1))
    assert found.loss == pytest.approx([2.0, 1.0, 12 / 7])
    assert found.metrics["loss"] == pytest.approx(19 / 11)
    assert sum(found.score) / 3 == pytest.approx(19 / 11) and sum(found.loss) / 3 != pytest.approx(19 / 11)
