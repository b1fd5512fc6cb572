"""Prompt tuning: learned embeddings in front of the text. Lester, Al-Rfou, Constant 2021, arXiv:2104.08691.

    [P; E(x)]         P in R^{l x e} is trained, E and all else is frozen          (sec. 2)

    symbol   name     shape        role
    P        prompt   (K, l, e)    weight    embeddings of l tokens drawn from the vocabulary, or U(-0.5, 0.5)

l is the option `length`, the start is `prompt_init`: vocabulary or uniform. Trained: l e, and the head.

The prompt is l tokens more, whose ids follow those of the vocabulary. `model.virtual_tokens` names them to
code that generates, which lays them in front itself; any other forward pass gets them here, and gives back
what belongs to the text alone.

Deviations: tokens are drawn from the whole vocabulary, not from its 5,000 most frequent; class labels are no
start here. The paper's model is T5; an encoder pools the text's own first token, which the prompt precedes.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants._core.attach import Attached, Inserted
from variants._core.base import wide
from variants._core.own import check_positions, freeze, head_parameters, inserted, pack_heads
from variants._core.registry import register
from variants._core.run import RunConfig
from variants._core.seeds import generator, uniform
from variants._core.storage import store_backbone
from variants._core.targets import backbone_of


class Prompt(nn.Module):
    """The prompts of all runs, and the embedding of ids that may name them."""

    def __init__(self, runs: tuple[RunConfig, ...], words: nn.Module) -> None:
        super().__init__()
        lengths = {int(run.options["length"]) for run in runs}
        if len(lengths) != 1:
            raise ValueError(f"runs of one pack need one length; these have {sorted(lengths)}.")
        self.length = lengths.pop()
        self.vocabulary = len(words.weight)
        self.prompt = nn.Parameter(torch.stack([self._start(run, words) for run in runs]))
        self.added = 0  # positions that the forward pass under way has in front

    def _start(self, run: RunConfig, words: nn.Module) -> Tensor:
        source = generator(run.seed, "init", "prompt")
        weight = words.weight.detach()
        if run.options.get("prompt_init", "vocabulary") == "uniform":
            return uniform((self.length, weight.shape[1]), 0.5, source).to(weight.device, wide(weight.dtype))
        drawn = torch.randint(self.vocabulary, (self.length,), generator=source)
        return weight[drawn.to(weight.device)].to(wide(weight.dtype))

    def ids(self) -> range:
        """The ids by which the prompt's tokens go."""
        return range(self.vocabulary, self.vocabulary + self.length)

    def before(self, text: Tensor) -> Tensor:
        """Embeddings (rows, l + T, e): each run's prompt in front of its rows of the text's (rows, T, e)."""
        K, n, e = self.prompt.shape
        front = self.prompt[:, None].expand(K, len(text) // K, n, e).reshape(len(text), n, e)
        return torch.cat([front.to(text.dtype), text], 1)

    def forward(self, ids: Tensor, words: nn.Module) -> Tensor:
        """Embeddings (rows, T, e) of ids of which some name the prompt's; each run's rows read its own."""
        text = words(ids.clamp(max=self.vocabulary - 1))
        K, virtual = len(self.prompt), (ids - self.vocabulary).clamp(min=0)
        of_run = torch.arange(K, device=ids.device).repeat_interleave(len(ids) // K)[:, None]
        own = self.prompt[of_run, virtual].to(text.dtype)
        return torch.where((ids >= self.vocabulary)[..., None], own, text)


def _before(backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A forward pre-hook on the backbone: ids become embeddings, the prompt's among them."""
    prompt: Prompt = backbone.prompt
    prompt.added = 0
    ids = args[0] if args else kwargs["input_ids"]
    cache = kwargs.get("past_key_values")
    laid = bool((ids >= prompt.vocabulary).any())
    if not laid and cache is not None and cache.get_seq_length():
        return args, kwargs  # the prompt is in the cache
    kwargs, words = {**kwargs, "input_ids": None}, backbone.get_input_embeddings()
    if laid:
        kwargs["inputs_embeds"] = prompt(ids, words)
    else:
        prompt.added = n = prompt.length
        check_positions(ids.shape[1], n, "prompt", getattr(backbone.config, "max_position_embeddings", None))
        for name, filled in (("attention_mask", 1), ("token_type_ids", 0)):
            if (given := kwargs.get(name)) is not None:
                kwargs[name] = F.pad(given, (n, 0), value=filled)
        if (positions := kwargs.get("position_ids")) is not None:
            front = torch.arange(n, device=ids.device).expand(len(positions), n)
            kwargs["position_ids"] = torch.cat([front, positions + n], 1)
        kwargs["inputs_embeds"] = prompt.before(words(ids))
    return args[1:], kwargs


def _after(backbone: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    """A forward hook on the backbone: only the text's positions come out, and they are pooled."""
    if backbone.prompt.added:
        output.last_hidden_state = output.last_hidden_state[:, backbone.prompt.added :]
        if getattr(output, "pooler_output", None) is not None:
            output.pooler_output = backbone.pooler(output.last_hidden_state)
    return output


def sizes(model: Any, options: Mapping[str, Any]) -> dict[str, int]:
    """Trained parameters by role, as `costs.method_sizes` says."""
    width = next(shape[1] for shape in model.shapes.values() if len(shape) == 2 and shape[0] == model.vocab)
    return {"weight": int(options["length"]) * width}


@register("method", "prompt")
def prompt(
    model: nn.Module,
    runs: tuple[RunConfig, ...],
    *,
    device: torch.device | str | None = None,
    fresh: Collection[str] | None = None,
) -> Attached:
    """A prompt for each run, and a head; ValueError for a model of two stacks."""
    freeze(model)
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"{type(model).__name__} has an encoder and a decoder, and a prompt is laid before one text "
            "only: variant=houlsby and variant=ia3 take such models."
        )
    store_backbone(model, runs, device=device)
    heads = pack_heads(model, [run.seed for run in runs], fresh=fresh)
    backbone = backbone_of(model)
    backbone.prompt = Prompt(runs, backbone.get_input_embeddings())
    backbone.register_forward_pre_hook(_before, with_kwargs=True)
    backbone.register_forward_hook(_after, with_kwargs=True)
    model.virtual_tokens = tuple(backbone.prompt.ids())
    name = next(name for name, module in model.named_modules() if module is backbone.prompt)
    trained = [*inserted(name, backbone.prompt, len(runs)), *head_parameters(heads)]
    added = Inserted(
        what="the embeddings of a prompt",
        positions=backbone.prompt.length,
        to_peft=lambda k: _to_peft(model, backbone.prompt, k),
    )
    return Attached(model, runs, trained, heads=heads, inserted=added)


def _to_peft(model: nn.Module, own: Prompt, k: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        raise ValueError(
            "PEFT classifies at the prompt's first position, or at a padded one, where this run reads the "
            "text: PEFT holds the prompts of language models alone; variant=ptuning_v2 exports a classifier."
        )
    described = {
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": own.length,
        "token_dim": own.prompt.shape[2],
        "num_transformer_submodules": 1,
        "num_attention_heads": model.config.num_attention_heads,
        "num_layers": model.config.num_hidden_layers,
        "prompt_tuning_init": "RANDOM",
    }
    return described, {"prompt_embeddings": own.prompt[k].detach()}
