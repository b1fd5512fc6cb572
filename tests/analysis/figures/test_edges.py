"""Two edge rules are one: a best rate beside one that diverged lies on no edge."""

import pytest

from analysis.compare import budgets
from analysis.figures import evidence
from analysis.runs import cells, load


@pytest.mark.parametrize(("diverges", "edge"), [(True, False), (False, True)])
def test_a_rate_beside_one_that_diverged_is_on_no_edge(writer, diverges, edge):
    w = writer()
    for lr, accuracy in ((0.001, 0.6), (0.002, 0.7), (0.004, None))[: 3 if diverges else 2]:
        spec = w.spec("lora", 8, 100, lr=lr, tuned=["lr"])
        w.run(spec, accuracy or 0.5, phase="tune", status="completed" if accuracy else "diverged")
    for seed in range(3):
        w.run(w.spec("lora", 8, seed, lr=0.002, tuned=["lr"]), phase="confirm")
    study = load.read(w.root)
    table = cells.cells(study)
    (budget,) = budgets.budgets(study, table).values()
    assert bool(budget.edges) == bool(evidence.rate_points(table)["edge"].any()) == edge
