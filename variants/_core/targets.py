"""The linear maps of a model: which there are, which a target means, and which of them the model uses."""

import copy
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from variants._core import names
from variants._core.base import Base, StackBase
from variants._core.names import Layout, Target, Targets


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a dense linear map: nn.Linear, an adapted one, or the Conv1D of GPT-2."""
    base = getattr(module, "base", None)
    stored = isinstance(base, Base) and not isinstance(base, StackBase)
    return stored or isinstance(module, nn.Linear) or is_conv1d(module)


def is_conv1d(module: nn.Module) -> bool:
    """The Conv1D of transformers, whose weight is (d_in, d_out)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def shape(module: nn.Module) -> tuple[int, int]:
    """(d_in, d_out) of a linear map."""
    if hasattr(module, "base"):
        return module.base.d_in, module.base.d_out
    return tuple(module.weight.shape) if is_conv1d(module) else tuple(module.weight.shape[::-1])


def backbone_of(model: nn.Module) -> nn.Module:
    """The model without its head."""
    return getattr(model, "base_model", model)


def backbone_linears(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear map of the backbone, by its name in the whole model."""
    inside = {id(module) for module in backbone_of(model).modules()}
    return {name: m for name, m in model.named_modules() if is_linear(m) and id(m) in inside}


def layout_of(model: nn.Module) -> Layout:
    """What decides which maps a target means, told by the model itself."""
    linears, config = backbone_linears(model), getattr(model, "config", None)
    others = (name for name, _ in model.named_parameters() if ".base." not in name)
    heads = getattr(config, "num_attention_heads", None) or 1
    shared = 1 if getattr(config, "multi_query", False) else None
    stacks = {name: (len(p), *_matrix(m, p)) for name, (m, p) in expert_stacks(model).items()}
    return Layout(
        maps={name: shape(module) for name, module in linears.items()},
        tensors={*others, *(f"{name}.weight" for name in linears)},
        stacks=stacks,
        active=getattr(config, "num_experts_per_tok", None) or 1,
        model_type=_fused_as(config),
        heads=heads,
        groups=shared or getattr(config, "num_key_value_heads", None) or heads,
    )


def expert_stacks(model: nn.Module) -> dict[str, tuple[nn.Module, nn.Parameter]]:
    """Stacks of experts' matrices whose layout the model says: name -> (their module, the parameter).

    Modules of transformers' experts interface do: `is_transposed`, and the tokens' experts as an argument.
    """
    return {
        name: (module, parameter)
        for name, (module, parameter) in _stacks(model).items()
        if hasattr(module, "is_transposed") and hasattr(module, "_apply_gate")
    }


def _stacks(model: nn.Module) -> dict[str, tuple[nn.Module, nn.Parameter]]:
    """Stacks of matrices inside blocks that are no linear maps, as experts are kept."""
    inside = {id(module) for module in backbone_of(model).modules()}
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return {
        f"{prefix}.{leaf}": (module, parameter)
        for prefix, module in model.named_modules()
        if id(module) in inside and not isinstance(module, convolutions)
        for leaf, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and names.block_index(prefix) is not None
    }


def _matrix(module: nn.Module, stack: nn.Parameter) -> tuple[int, int]:
    """(d_in, d_out) of one expert."""
    a, b = stack.shape[1:]
    return (a, b) if module.is_transposed else (b, a)


def _fused_as(config: Any) -> str:
    """The architecture by which fused maps are cut; GPT-BigCode interleaves q, k, v of many heads."""
    kind = getattr(config, "model_type", "")
    return "" if kind == "gpt_bigcode" and not config.multi_query else kind


def find(model: nn.Module, targets: Targets, *, layers: Any = None) -> dict[str, list[Target]]:
    """What each pattern matches on a model; see `names.find`."""
    return names.find(layout_of(model), targets, layers=layers)


def resolve(model: nn.Module, targets: Targets, *, layers: Any = None) -> dict[str, list[str]]:
    """What each pattern matches, by name."""
    return {
        pattern: [t.name for t in found] for pattern, found in find(model, targets, layers=layers).items()
    }


def linear_shapes(model: nn.Module, targets: Targets) -> dict[str, tuple[int, int]]:
    """(d_in, d_out) of everything that the targets match."""
    matched = find(model, targets).values()
    return {target.name: (target.d_in, target.d_out) for found in matched for target in found}


@torch.no_grad()
def fed_without_batch(model: nn.Module, names: Collection[str] | None = None) -> list[str]:
    """Linear maps of the backbone whose input does not grow with the number of examples.

    DeBERTa's maps of relative positions are such: one table for all rows, where each run would need its own.
    The backbone is run twice on a few tokens. A model that does not take token ids is not run, and nothing is
    found.
    """
    if not _takes_tokens(model):
        return []
    linears = backbone_linears(model)
    found: dict[str, None] = {}
    rows = 0

    def check(name: str):
        return lambda module, inputs: found.setdefault(name) if inputs[0].shape[0] % rows else None

    with _evaluating(model), ExitStack() as hooks:
        for name in linears if names is None else linears.keys() & names:
            hooks.enter_context(linears[name].register_forward_pre_hook(check(name)))
        for rows in (5, 7):
            _run(model, rows)
    return list(found)


def unreached(model: nn.Module) -> frozenset[str]:
    """Linear maps whose output has no part in what the model gives: an adapter there would learn nothing.

    A map is such if the model never calls it (Mamba reads the weight of its dt_proj by itself), or if no
    gradient comes back to it. One pass of a few tokens shows it, on the meta device where the architecture
    allows it, else on the model itself; once for an architecture. Maps that differ in their numbers only are
    judged together, as which of its experts a model uses depends on the tokens.

    Raises:
        RuntimeError: The model cannot be run on a few tokens.
    """
    if not _takes_tokens(model):
        return frozenset()
    maps = tuple(backbone_linears(model))
    key = (type(model), model.config.to_json_string(), maps)
    if key not in _unreached:
        _unreached[key] = _tried(model, maps)
    return _unreached[key]


_unreached: dict[tuple, frozenset[str]] = {}


def _tried(model: nn.Module, maps: Collection[str]) -> frozenset[str]:
    meta = _on_meta(model)
    for tried, whole in ((meta, True), (meta, False), (model, True)):
        try:
            kinds = {_numberless(name) for name in _reached(tried, maps, whole=whole)}
        except Exception as error:  # control flow that depends on values, or kernels without a meta form
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        else:
            return frozenset(name for name in maps if _numberless(name) not in kinds)
    raise RuntimeError(reason)


@torch.enable_grad()
def _reached(model: nn.Module, names: Collection[str], *, whole: bool) -> list[str]:
    """The maps to which a gradient comes back from the output of the whole model, or of its backbone."""
    device = next(model.parameters()).device
    added = {name: torch.zeros((), device=device, requires_grad=True) for name in names}

    def add(zero: Tensor):
        return lambda module, inputs, output: output + zero.to(output.dtype)

    with _evaluating(model), ExitStack() as hooks:
        for name, zero in added.items():
            hooks.enter_context(model.get_submodule(name).register_forward_hook(add(zero)))
        outputs = _run(model, 1, whole=whole)
    gradients = [None] * len(added)
    given = outputs.values() if isinstance(outputs, Mapping) else outputs
    sums = [out.float().sum() for out in given if isinstance(out, Tensor) and out.requires_grad]
    if sums:
        gradients = torch.autograd.grad(sums, list(added.values()), allow_unused=True)
    return [name for name, gradient in zip(added, gradients, strict=True) if gradient is not None]


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy of the model's structure whose tensors have shapes and no content."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        if hasattr(module, "base") and isinstance(module.base, Base):
            d_in, d_out = shape(module)
            memo[id(module)] = nn.Linear(d_in, d_out, bias=module.bias is not None, device="meta")
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(p.detach().to("meta"), requires_grad=False)
    memo |= {id(b): b.to("meta") for b in model.buffers()}
    made = copy.deepcopy(model, memo)
    if hasattr(made, "config"):  # neither a look at the values of tokens, nor kernels for grouped products
        made.config.pad_token_id = None
        made.config._experts_implementation = "batched_mm"
    return made


def _numberless(name: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".*", name)


def _takes_tokens(model: nn.Module) -> bool:
    return getattr(model, "main_input_name", None) == "input_ids"


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _run(model: nn.Module, rows: int, *, whole: bool = False) -> Any:
    device = next(model.parameters()).device
    ids = torch.ones(rows, 2, dtype=torch.long, device=device)
    end, vocabulary = (getattr(model.config, name, None) for name in ("eos_token_id", "vocab_size"))
    if whole and isinstance(end, int) and end < (vocabulary or 0):  # where some models classify
        ids[:, -1] = end
    extra = {"decoder_input_ids": ids} if getattr(model.config, "is_encoder_decoder", False) else {}
    return (model if whole else backbone_of(model))(input_ids=ids, **extra)


def experts(model: nn.Module) -> Mapping[str, int]:
    """All stacks of matrices, those of an unknown layout too: name -> numbers."""
    return {name: parameter.numel() for name, (_, parameter) in _stacks(model).items()}
