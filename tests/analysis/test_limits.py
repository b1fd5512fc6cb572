"""What a study of few seeds is said not to show."""

import pytest

from analysis import cells, limits, load


@pytest.mark.parametrize(
    ("ranks", "accuracies", "said"),
    [
        ((4, 8), (0.6, 0.61), "the other cell lies within that of the best"),
        ((4, 8), (0.2, 0.9), "the other cell does not lie within that of the best"),
        ((4, 8, 16), (0.2, 0.88, 0.9), "1 of the other 2 cells lie within that of the best"),
    ],
)
def test_how_many_cells_the_choice_of_test_examples_leaves_tied(ranks, accuracies, said, writer):
    """200 test examples leave about 0.07 open around a share of 0.6, and 0.04 around one of 0.9."""
    w = writer()
    for r, accuracy in zip(ranks, accuracies, strict=True):
        w.run(w.spec("lora", r, 0), accuracy)
    found = limits.limits(cells.cells(load.read(w.root)), None)
    assert any(said in text for text in found)
