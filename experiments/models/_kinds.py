"""What a linear map is, told by its name and the names around it, as `variants` tells it by the modules.

The rules are those of `variants._targets`, which needs the model itself; the tests hold the two together.
"""

from collections.abc import Iterable

_KINDS = {
    **dict.fromkeys(["q", "query", "q_proj", "query_proj", "q_lin", "to_q"], "q"),
    **dict.fromkeys(["k", "key", "k_proj", "key_proj", "k_lin", "to_k"], "k"),
    **dict.fromkeys(["v", "value", "v_proj", "value_proj", "v_lin", "to_v"], "v"),
    **dict.fromkeys(["c_attn", "Wqkv", "qkv_proj", "query_key_value", "qkv", "in_proj"], "qkv"),
}
_OUTPUTS = {"o", "o_proj", "out_proj", "out_lin", "to_out", "Wo", "dense"}
_APART = {"gate", "router", "shared_expert_gate", "pos_key_proj", "pos_query_proj", "pos_proj", "pos_q_proj"}


def kinds(names: Iterable[str], tensors: Iterable[str]) -> dict[str, str]:
    """The kind of each linear map inside a block: q, k, v, qkv (fused), o or m (mlp).

    Args:
        names: Of the linear maps.
        tensors: Names of all tensors of the model, which show where its lists of blocks are.
    """
    lists = _lists(tensors)
    branches = {name: branch for name in names if (branch := _branch(name, lists)) is not None}
    attention = {branches[name] for name in branches if name.rpartition(".")[2] in _KINDS}
    found = {}
    for name, branch in branches.items():
        leaf, direct = name.rpartition(".")[2], branch == name
        if leaf in _APART:
            continue
        siblings = {f"{branch.rpartition('.')[0]}.{q}" for q in ("q_proj", "query", "q")} & attention
        output = branch in attention or (direct and leaf in _OUTPUTS and bool(siblings))
        found[name] = _KINDS.get(leaf) or ("o" if output else "m")
    return found


def _branch(name: str, lists: set[str]) -> str | None:
    """The child of the innermost block that a module is in; None outside blocks."""
    parts = name.split(".")
    for i in range(len(parts) - 2, 0, -1):
        if parts[i].isdigit() and ".".join(parts[:i]) in lists:
            return ".".join(parts[: i + 2])
    return None


def _lists(tensors: Iterable[str]) -> set[str]:
    """The names of lists of blocks."""
    parts = [name.split(".") for name in tensors]
    return {".".join(p[:i]) for p in parts for i in range(1, len(p) - 1) if p[i].isdigit()}
