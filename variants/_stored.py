"""The frozen maps of a backbone in their storage: put there one at a time, or loaded straight into it."""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn

from variants._base import Base
from variants._layer import AdaptedLinear
from variants._method import RunConfig
from variants._registry import get
from variants._targets import backbone_linears, is_conv1d


def loads_stored(run: RunConfig) -> bool:
    """Whether a loader may put the linear maps of the backbone straight into the run's storage.

    Not where they stay as they are, nor where some blocks are trained as a whole.
    """
    return run.axis("storage") != "fp32" and not run.options.get("unfreeze_top")


def stored_layer(
    name: str, module: nn.Module, run: RunConfig, *, weight: Tensor | None = None, runs: int = 1
) -> AdaptedLinear:
    """A linear map in the run's storage, without any delta.

    Args:
        name: The map's name in the model.
        module: The map: dense, or a layer that a loader made by this function.
        run: Its storage and the options that the storage reads.
        weight: The dense weight in the module's layout; None: the module's own.
        runs: How many runs will share the layer.

    Raises:
        ValueError: The map is stored already, and otherwise than the run asks.
    """
    storage = run.axis("storage")
    if isinstance(module, AdaptedLinear):
        if module.storage != storage:
            raise ValueError(
                f"{name} was loaded in {module.storage}, and this run asks for {storage}: load the base anew."
            )
        base, origin = module.base, module.origin
    else:
        store: Callable[..., Base] = get("storage", storage)
        dense = module.weight if weight is None else weight
        base, origin = store(dense, transposed=is_conv1d(module), options=run.options), type(module)
    return AdaptedLinear(base, module.bias, name=name, runs=runs, origin=origin, storage=storage)


def store_backbone(
    model: nn.Module,
    runs: Sequence[RunConfig],
    *,
    adapted: Collection[str] = (),
    whole: tuple[str, ...] = (),
    device: torch.device | str | None = None,
) -> dict[str, AdaptedLinear]:
    """Put the linear maps of the backbone into their storage, one at a time.

    At full precision only the adapted ones are touched; those under a prefix of `whole` never are.
    """
    storages = {run.axis("storage") for run in runs}
    if len(storages) != 1:
        raise ValueError(
            f"runs of one pack share one frozen base, so one storage; these ask for {sorted(storages)}."
        )
    everything = storages.pop() != "fp32"
    layers = {}
    for name, module in backbone_linears(model).items():
        if name in adapted or (everything and not name.startswith(whole)):
            dense = device is not None and not isinstance(module, AdaptedLinear)
            weight = module.weight.to(device) if dense else None
            layers[name] = stored_layer(name, module, runs[0], weight=weight, runs=len(runs))
            model.set_submodule(name, layers[name])
    return layers
