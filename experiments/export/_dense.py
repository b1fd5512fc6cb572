"""--to dense-delta: what training added to each parameter of the base, and the head.

delta.safetensors   W' - W by the names and in the layout of the base's parameters, in float32
head.safetensors    the head's own parameters as they are; absent where there is no head
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.artifacts import Base, Source, dense_base
from experiments.errors import UserError
from experiments.export._fidelity import Reference
from variants import Attached, merge

if TYPE_CHECKING:
    from experiments.export import Options

DELTA, HEAD = "delta.safetensors", "head.safetensors"


def write(
    base: Base, source: Source, attached: Attached, folder: Path, options: "Options", reference: Reference
) -> dict[str, Any]:
    """Write the differences and compare the base plus them with the run's own model."""
    delta, head = changes(attached), _head(attached)
    if not delta and not head:
        raise UserError(
            f"{source.name} trained nothing, so there is no difference to export: it is its base. Give "
            "--to merged for a copy of that"
        )
    for tensors, file in ((delta, DELTA), (head, HEAD)):
        if tensors:
            save_file(tensors, folder / file, metadata={"format": "pt"})
    model = dense_base(base, source, options=reference.storage_options)
    _add(model, folder)
    reference.compare(f"the base, kept in {source.storage}, plus this difference", model)
    return {
        "delta": {name: list(tensor.shape) for name, tensor in delta.items()},
        "head": sorted(head),
        "use": "add each tensor of delta to the base's parameter of that name; put those of head in place",
    }


def changes(attached: Attached) -> dict[str, Tensor]:
    """W' - W of each parameter that the run changed, by its name in the base, in the base's layout."""
    if attached.inserted:  # that merges, else the export was refused
        before = dict(merge(replace(attached, inserted=None), 0, dtype=torch.float32).named_parameters())
        after = merge(attached, 0, dtype=torch.float32).named_parameters()
        heads = {f"{name}.{leaf}" for name, h in attached.heads.items() for leaf, _ in h.named_parameters()}
        pairs = {name: (before[name], p) for name, p in after if name not in heads}
        return {n: (p - b).detach().cpu() for n, (b, p) in pairs.items() if p is not b}
    found = {t.name: t.parameter.detach() - attached.originals[t.name] for t in attached.trained if t.plain}
    for name, layer in attached.layers.items():
        before, after = attached.weights(0)[name]
        change = after.double() - before.double()
        found[layer.parameter] = layer.in_layout(change)
    return {name: tensor.float().contiguous().cpu() for name, tensor in found.items()}


def _head(attached: Attached) -> dict[str, Tensor]:
    return {
        f"{name}.{leaf}": parameter.detach()[0].contiguous().cpu()
        for name, head in attached.heads.items()
        for leaf, parameter in head.named_parameters()
    }


@torch.no_grad()
def _add(model: Any, folder: Path) -> None:
    """What a reader of the files does, on copies: the model shares its tensors with the base."""
    tensors = {file: load_file(folder / file) for file in (DELTA, HEAD) if (folder / file).is_file()}
    changed: dict[int, torch.nn.Parameter] = {}
    for prefix, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{leaf}" if prefix else leaf
            if name in tensors.get(DELTA, {}):
                new = parameter + tensors[DELTA][name].to(parameter.device)
                changed.setdefault(id(parameter), torch.nn.Parameter(new, requires_grad=False))
            elif name in tensors.get(HEAD, {}):
                new = tensors[HEAD][name].to(parameter.device)
                changed[id(parameter)] = torch.nn.Parameter(new, requires_grad=False)
            if id(parameter) in changed:
                setattr(module, leaf, changed[id(parameter)])
