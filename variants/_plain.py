"""Training a model's own parameters, or rather copies of them: a base that others share stays as it was."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from variants._method import RunConfig, Trained
from variants._targets import backbone_linears, backbone_of


def only_one(runs: Sequence[RunConfig]) -> None:
    """Refuse a pack: such parameters have no run axis."""
    if len(runs) != 1:
        what = "unfreeze_top" if runs[0].method == "adapters" else runs[0].method
        raise ValueError(
            f"{what} trains the model's own parameters, which a pack of {len(runs)} runs would share: "
            "train one at a time."
        )


def unfreeze(
    model: nn.Module, chosen: Callable[[str, nn.Parameter], bool], *, within: nn.Module | None = None
) -> tuple[list[Trained], dict[str, Tensor]]:
    """Train the chosen parameters. Each is replaced by a copy; ties between modules are kept.

    Args:
        model: The model, whose parameters may be shared with others.
        chosen: Whether a parameter is to learn, by its name.
        within: Where it may lie; None: in the backbone.

    Returns:
        The trained parameters, and by name what they were before.
    """
    inside = {id(parameter) for parameter in (within or backbone_of(model)).parameters()}
    copies: dict[int, nn.Parameter] = {}
    trained, originals = [], {}
    for prefix, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{leaf}" if prefix else leaf
            if id(parameter) in inside and id(parameter) not in copies and chosen(name, parameter):
                copies[id(parameter)] = nn.Parameter(parameter.detach().clone())
                role = "weight" if parameter.ndim > 1 else "bias"
                trained.append(Trained(name, copies[id(parameter)], role, slice(0, 1), plain=True))
                originals[name] = parameter.detach()
            if id(parameter) in copies:
                setattr(module, leaf, copies[id(parameter)])
    return trained, originals


def top_blocks(model: nn.Module, count: int) -> tuple[str, ...]:
    """Name prefixes of the last `count` blocks of the backbone, of each of its stacks if it has several."""
    linears = backbone_linears(model)
    stacks = {
        name: len(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(linear.startswith(f"{name}.") for linear in linears)
    }
    outer = {
        name: size
        for name, size in stacks.items()
        if not any(name.startswith(f"{other}.") for other in stacks)
    }
    if count < 1 or any(count > size for size in outer.values()) or not outer:
        raise ValueError(f"unfreeze_top {count}: the model has {min(outer.values(), default=0)} blocks.")
    return tuple(f"{name}.{i}." for name, size in outer.items() for i in range(size - count, size))
