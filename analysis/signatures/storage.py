"""QLoRA's analyses: what 4 bits cost and save. Dettmers et al. 2023, arXiv:2305.14314, sections 3 and 4.

    bits per weight = 4 + 32/64                        absmax in fp32 per block of 64
    with double quantisation: 4 + 8/64 + 32/(64 256)   absmax in 8 bits, its own absmax per 256 blocks

and, with double quantisation (DQ), one fp32 offset per tensor.
"""

from collections.abc import Mapping
from typing import Any

BLOCK, OUTER = 64, 256
DENSE = ("fp32", "bf16")
DOUBLE = " + DQ"


def storage_name(spec: Mapping[str, Any]) -> str:
    """How a run kept its base: "fp32", "nf4 + DQ", "nf4"; "" where its spec does not say."""
    kind = str((spec.get("variant_axes") or {}).get("storage") or "")
    doubled = kind not in ("", *DENSE) and (spec.get("variant_options") or {}).get("double_quant", True)
    return kind + DOUBLE * bool(doubled)


def bits_per_weight(*, double: bool, block: int = BLOCK, outer: int = OUTER) -> dict[str, float]:
    """Bits per weight by component, without the offset of the tensor."""
    if not double:
        return {"codes": 4.0, "absmax": 32 / block}
    return {"codes": 4.0, "absmax": 8 / block, "absmax of absmax": 32 / (block * outer)}


def recovery(sixteen_bit: float, quantised: float, adapted: float) -> float:
    """How much of what adaptation gives a dense base it gives a quantised one: 1 is all of it.

    Args:
        sixteen_bit: The metric after adaptation of a dense base.
        quantised: That of the quantised base before adaptation.
        adapted: And after it.
    """
    if sixteen_bit == quantised:
        raise ValueError("adaptation of a dense base brings nothing, so there is nothing to recover")
    return (adapted - quantised) / (sixteen_bit - quantised)


def memory(
    *,
    base: int,
    unquantised: int,
    trained: int,
    activations: int,
    trained_bytes: int = 4,
    optimiser_bytes: int = 8,
) -> dict[str, int]:
    """Bytes by part while training.

    Base, unquantised and activations in bytes, `trained` in parameters (Adam keeps two).
    """
    return {
        "base": base,
        "unquantised": unquantised,
        "adapters": trained_bytes * trained,
        "gradients": trained_bytes * trained,
        "optimiser": optimiser_bytes * trained,
        "activations": activations,
    }
