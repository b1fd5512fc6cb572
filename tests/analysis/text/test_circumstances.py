"""Where the results of a study came from: more than one value of a thing shows that it is mixed."""

from analysis.runs import load
from analysis.text.circumstances import environment


def test_the_model_is_named_by_what_it_holds(writer):
    """Two seeds on one state of a folder, a third on another; and a package, which has no `content`."""
    w = writer()
    for seed, state in enumerate("aab"):
        options = {"path": "models/base", "content": state * 64}
        w.run(w.spec(seed=seed, model="hf", model_options=options), model={"sha256": state * 64})
    w.run(w.spec(seed=9), model={"sha256": "c" * 64, "source": "package minilm 1"})
    found = dict(environment(load.read(w.root)))
    assert found["models/base, weights"] == [("a" * 64, 2), ("b" * 64, 1)]
    assert found["models/base, all files"] == [("a" * 64, 2), ("b" * 64, 1)]
    assert found["minilm, weights"] == [("c" * 64, 1)]
    assert "minilm, all files" not in found
