"""The frozen maps of a backbone in their storage: put there one at a time, or loaded straight into it."""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn

from variants._core.base import Base
from variants._core.delta import AdaptedLinear
from variants._core.registry import get
from variants._core.run import RunConfig
from variants._core.targets import backbone_linears, is_conv1d


def loads_stored(run: RunConfig) -> bool:
    """Whether a loader may put the linear maps of the backbone straight into the run's storage.

    Not where they stay as they are, where blocks are trained as a whole, or where A and B start from W as it
    was.
    """
    stays = run.axis("storage") == "fp32" or run.options.get("unfreeze_top")
    return not stays and get("init", run.axis("init")).needs != "dense"


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


def dense_size(model: nn.Module) -> int:
    """Parameters of a model, each stored map counted as the dense one that it stands for."""
    maps, rest = _parts(model)
    return sum(base.d_in * base.d_out for base in maps) + sum(p.numel() for p in rest)


def frozen_bytes(model: nn.Module, trained: Collection[nn.Parameter]) -> int:
    """Stored bytes of all that is frozen: quantised and dense maps, embeddings, norms."""
    maps, rest = _parts(model)
    learning = {id(p) for p in trained}
    return sum(base.nbytes for base in maps) + sum(p.nbytes for p in rest if id(p) not in learning)


def bits_per_weight(model: nn.Module) -> float | None:
    """Bits that a weight of the stored maps takes, from the bytes that are stored; None without any."""
    maps, _ = _parts(model)
    weights = sum(base.d_in * base.d_out for base in maps)
    return 8 * sum(base.nbytes for base in maps) / weights if weights else None


def _parts(model: nn.Module) -> tuple[list[Base], list[nn.Parameter]]:
    """The stored maps, and the parameters outside them."""
    maps = [module for module in model.modules() if isinstance(module, Base)]
    inside = {id(p) for base in maps for p in base.parameters()}
    return maps, [p for p in model.parameters() if id(p) not in inside]
