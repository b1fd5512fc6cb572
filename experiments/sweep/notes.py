"""What a sweep says of itself before it starts: what would make it unfair, and what was matched."""

from collections.abc import Sequence

from experiments.spec import RunSpec
from experiments.sweep.fairness import findings


def on_comparing(specs: Sequence[RunSpec]) -> list[str]:
    """Plain sentences, most weighty first; `python -m experiments.sweep plan` says more, and why."""
    told = [str(finding) for finding in findings(specs) if finding.level != "note"]
    return [*told, *on_matching(specs)]


def on_matching(specs: Sequence[RunSpec]) -> list[str]:
    """The ranks that match=... chose, a sentence for each variant."""
    ranks: dict[str, dict[int, int]] = {}
    for spec in specs:
        if spec.matched is not None and spec.r is not None:
            ranks.setdefault(spec.variant, {})[spec.matched] = spec.r
    return [
        f"match: {variant} has {', '.join(f'r={own} for r={r}' for r, own in sorted(found.items()))} of the "
        "reference."
        for variant, found in ranks.items()
    ]
