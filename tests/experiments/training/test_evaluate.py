"""What an evaluation says of each example."""

from types import SimpleNamespace

import pytest
import torch

from experiments.tasks import Outputs, kind_of


def test_the_scores_of_texts_have_the_loss_over_tokens_as_their_mean():
    total, targets = torch.tensor([6.0, 1.0, 12.0]), torch.tensor([3, 1, 7])
    task = SimpleNamespace(metric="loss", metrics=(), settings={})
    found = kind_of("completion").score(task, None, Outputs(total, targets, torch.full((3,), -1)))
    loss, score = found.columns["loss"], found.columns["score"]
    assert loss == pytest.approx([2.0, 1.0, 12 / 7])
    assert found.metrics == {"loss": pytest.approx(19 / 11)}
    assert sum(score) / 3 == pytest.approx(19 / 11) and sum(loss) / 3 != pytest.approx(19 / 11)
