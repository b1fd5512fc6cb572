"""LoRA+: a larger learning rate for B. Hayou, Ghosh, Yu 2024, arXiv:2402.12354.

    eta_B = lambda eta_A,   lambda >= 1                 (sec. 4)

Features are learnt efficiently at large width with Adam only if eta_B / eta_A grows with the width (theorem
1); in practice one fixed lambda, `lr_ratio`. With B = 0 at the start the paper's optimum lies lower than with
A = 0. The ratio acts on the step, not on the gradient, which Adam would normalise away.

Deviations: the authors' code gives the high rate to every one-dimensional parameter too (biases, norms, a
DoRA magnitude). Here it goes by role: B alone. Weight decay is the same coefficient for A and B, as there, so
a step decays B lambda times as much.
"""

from typing import Any

from variants._core.costs import Rates
from variants._core.registry import get, register

defaults = {"lr_ratio": 8.0}


@register("grouping", "lora_plus")
def lora_plus_rates(run: Any, lr: float, head_lr: float, weight_decay: float) -> Rates:
    """As `uniform`, with lr_ratio times the rate for B."""
    ratio = float(run.options.get("lr_ratio", defaults["lr_ratio"]))
    if ratio <= 0:
        raise ValueError(f"lr_ratio {ratio:g} must be positive; 1 is plain LoRA.")
    return {**get("grouping", "uniform")(run, lr, head_lr, weight_decay), "out": (lr * ratio, weight_decay)}
