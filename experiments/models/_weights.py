"""Weights of a checkpoint as its files hold them, one at a time, whatever a loaded model made of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.errors import UserError
from experiments.models._check import check_planned, weight_files
from experiments.models._find import Spec, find

if TYPE_CHECKING:
    from torch import Tensor


def weights(spec: Spec, names: Sequence[str]) -> Iterator["Tensor"]:
    """The weight of each of these modules in the files' own layout and type, read when its turn comes.

    Args:
        spec: Its model and model_options are read.
        names: Of modules in the loaded model. Files may leave out or add the prefix of the backbone.

    Raises:
        UserError: the files hold no such weight, or have changed.
    """
    source = find(spec)
    folder = source.folder
    check_planned(source.place, spec.model_options.get("content"), spec.model)
    with ExitStack() as stack:
        held: dict[str, Callable[[str], Tensor]] = {}
        for file in weight_files(folder, spec.model_options, spec.model):
            keys, read = _opened(file, stack)
            held |= dict.fromkeys(keys, read)
        for name in names:
            key = _key(f"{name}.weight", held)
            if key is None:
                raise UserError(f"{folder} holds no weight of {name} by that name")
            yield held[key](key)


def _key(name: str, held: dict[str, Callable[[str], "Tensor"]]) -> str | None:
    """The files' name of a parameter: its own, or without or with a prefix before it."""
    own = next((key for key in (name, name.partition(".")[2]) if key in held), None)
    return own or next((key for key in held if key.endswith(f".{name}")), None)


def _opened(file: Path, stack: ExitStack) -> tuple[list[str], Callable[[str], "Tensor"]]:
    """The names in a file, and what reads one of them."""
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        content = stack.enter_context(safe_open(file, framework="pt"))
        return list(content.keys()), content.get_tensor
    import torch

    tensors = torch.load(file, map_location="cpu", mmap=True, weights_only=True)  # allowed by the user
    return list(tensors), tensors.__getitem__
