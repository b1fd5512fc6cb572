"""The transformers side of loading: tokenizer, config, and the model with the checkpoint's weights."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.errors import UserError
from experiments.models._check import has_vocabulary, no_tokenizer, one_line
from experiments.models._find import Spec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from variants import RunConfig


def tokenizer(folder: Path, name: str) -> tuple["PreTrainedTokenizerBase", list[str]]:
    """The tokenizer with a pad token, and a note if it had none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exceptions
        if not has_vocabulary(folder):
            raise no_tokenizer(folder, name) from error
        raise UserError(
            f"model={name}: the tokenizer in {folder} cannot be read: {one_line(error)}. Restore its files "
            "from where the model came from, or install the package that it asks for"
        ) from error
    if type(tokenizer).vocab_files_names and len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise no_tokenizer(folder, name)
    longest = tokenizer.model_max_length
    if not isinstance(longest, int | float) or longest < 1:
        raise UserError(
            f"model={name}: model_max_length in {folder / 'tokenizer_config.json'} is {longest!r}, no "
            "number of tokens. Restore the file from where the model came from"
        )
    if tokenizer.pad_token_id is not None:
        return tokenizer, []
    stand_in = tokenizer.eos_token or tokenizer.unk_token
    if stand_in is None:
        raise UserError(
            f"model={name}: the tokenizer in {folder} has no pad, end or unknown token to fill up texts with"
        )
    tokenizer.pad_token = stand_in
    return tokenizer, [
        f"the tokenizer has no pad token: texts are filled up with {stand_in!r}, which is masked"
    ]


def config(folder: Path, name: str, *, n_labels: int | None, dropout: float) -> "PreTrainedConfig":
    """The model's config with the number of classes and one dropout probability throughout."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the code of any architecture may raise anything on values that do not fit it
        raise UserError(
            f"model={name}: {folder / 'config.json'} cannot be used: {one_line(error)}. Choose a model "
            "whose code is part of transformers, or update transformers"
        ) from error
    for key, value in config.to_dict().items():
        if "drop" in key and (value is None or type(value) in (int, float)):
            setattr(config, key, 0.0 if "layerdrop" in key.replace("_", "") else dropout)
    if n_labels is not None:
        config.num_labels = n_labels
    config.use_cache = False  # a cache of keys and values is of no use in training
    return config


def writer(config: "PreTrainedConfig", name: str) -> str:
    """Which class of model writes text: "causal", or "seq2seq" for encoder-decoders.

    Refuses encoders: they have a language-model head too, but see the token they are to predict.
    """
    from transformers.models.auto import modeling_auto

    if config.model_type in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "seq2seq"
    causal = config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked = config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if not causal or (masked and not getattr(config, "is_decoder", False)):
        raise UserError(
            f"model={name} is a {config.model_type}, which is no causal language model, but this dataset "
            "trains on completions. Give a decoder, such as model=hf model.name=gpt2, or a classification "
            "dataset"
        )
    return "causal"


def pretrained(
    folder: Path, spec: Spec, config: "PreTrainedConfig", *, kind: str, streamed: "RunConfig | None" = None
) -> tuple["PreTrainedModel", set[str], set[str]]:
    """The model with the checkpoint's weights; the parameters not from there; those of another size there.

    With `streamed` given, the linear maps of the backbone go into that run's storage as they are read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

    writers = {"causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}
    auto: Any = writers.get(kind, AutoModelForSequenceClassification)
    storing = {}
    if streamed is not None:
        from experiments.models._streamed import Streamed

        storing = {"quantization_config": Streamed(streamed)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            loaded: Any = auto.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=None if spec.model_options.get("allow_pickle") else True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **storing,
            )
        except (
            Exception
        ) as error:  # the code of any architecture may raise anything on files that do not fit it
            raise UserError(
                f"model={spec.model}: {folder} cannot be loaded for {kind}: {one_line(error)}. Is it a whole "
                "model of a kind that transformers knows? Download it again, or choose another"
            ) from error
    model, report = loaded
    missing = set(report["missing_keys"])
    other_size = {key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]}
    _check_depth(folder, spec, report["unexpected_keys"], model)
    _check_fit(folder, spec, missing, other_size, heads=_heads(model) if kind == "classification" else set())
    return model, missing | other_size, other_size


def check_reading(model: "PreTrainedModel", name: str) -> None:
    """Refuse classifiers that read a text off its last place: texts are filled up there."""
    last = [part for part in model.modules() if getattr(part, "summary_type", None) == "last"]
    if last:
        raise UserError(
            f"model={name} is a {model.config.model_type}, which reads a text off its last token, whatever "
            "that is; here texts are filled up on the right, so that it would read the filling. Give another "
            "model"
        )


def limit(model: "PreTrainedModel") -> int | None:
    """The longest text in tokens. RoBERTa and its kin count positions from behind the pad token's."""
    from torch import nn

    if model.config.model_type in ("t5", "mt5", "umt5"):  # relative positions; n_positions is only a memory
        return None
    for name, module in model.named_modules():
        if (
            name.endswith("position_embeddings")
            and isinstance(module, nn.Embedding)
            and module.padding_idx is not None
        ):
            return module.num_embeddings - module.padding_idx - 1
    names = ("max_position_embeddings", "n_positions")
    limits = (getattr(model.config, name, None) or 0 for name in names)  # XLNet's is -1: none
    return next((limit for limit in limits if limit > 0), None)


def _check_depth(folder: Path, spec: Spec, unexpected: Iterable[str], model: "PreTrainedModel") -> None:
    """Refuse weights with whole blocks that config.json knows nothing of: it is another model's."""
    block = re.compile(r"([A-Za-z_]+\.\d+)\.(?:.*\.)?weight$")  # "layer.11" of encoder.layer.11.output.weight
    own, extra = (
        {found[1] for name in names if (found := block.search(name))}
        for names in (model.state_dict(), unexpected)
    )
    if more := sorted(extra - own):
        raise UserError(
            f"model={spec.model}: the weights in {folder} do not fit its config.json: it has no place for "
            f"{len(more)} of their blocks, such as {more[0]}. Weights and config.json have to come from "
            "the same model"
        )


def _check_fit(folder: Path, spec: Spec, missing: set[str], other_size: set[str], *, heads: set[str]) -> None:
    """Refuse weights that leave more to chance than a head, or a pooler, which language models lack."""
    strange = sorted(
        (missing | other_size) - heads - {name for name in missing if heads and ".pooler." in name}
    )
    if strange:
        hint = "" if heads else "; a causal model needs its language-model head"
        raise UserError(
            f"model={spec.model}: the weights in {folder} do not fit its config.json: {len(strange)} "
            f"parameters are missing or of another size, such as {strange[0]}. Weights and config.json have "
            f"to come from the same model{hint}"
        )


def _heads(model: "PreTrainedModel") -> set[str]:
    """The names of the parameters outside the backbone."""
    return {
        name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")
    }
