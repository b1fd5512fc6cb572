"""From the turns of a conversation to the tokens of its prompt and of its completion."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.data._tasks import Turn
from experiments.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render(
    conversations: Sequence[tuple[Turn, ...]], tokenizer: "PreTrainedTokenizerBase"
) -> list[tuple[list[int], list[int]]]:
    """Token ids of each prompt and of its completion, which ends with the end-of-sequence token.

    The two are tokenised apart, since that is how a prompt meets the model when it generates.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError(
            f"the tokenizer of this model ({type(tokenizer).__name__}) has no end-of-sequence token, so a "
            "completion could never end. dataset=instruct needs a causal language model such as gpt2 or a "
            "Llama"
        )
    start = _start(tokenizer)
    plain = [turns[0][0] == "prompt" or not tokenizer.chat_template for turns in conversations]
    texts = [
        _plain(turns) if bare else _templated(turns, tokenizer)
        for turns, bare in zip(conversations, plain, strict=True)
    ]
    prompts = _ids([prompt for prompt, _ in texts], tokenizer)
    completions = _ids([completion for _, completion in texts], tokenizer)
    return [
        (start + prompt if bare else prompt, completion if completion[-1:] == [end] else [*completion, end])
        for prompt, completion, bare in zip(prompts, completions, plain, strict=True)
    ]


def _plain(turns: tuple[Turn, ...]) -> tuple[str, str]:
    """Prompt and completion as they are, with a line break at a bare seam; chats as "Role: text" lines."""
    if turns[0][0] == "prompt":
        prompt, completion = turns[0][1], turns[1][1]
        seam = "" if prompt[-1:].isspace() or completion[:1].isspace() else "\n"
        return prompt + seam, completion
    lines = "".join(f"{role.capitalize()}: {text}\n" for role, text in turns[:-1])
    return f"{lines}{turns[-1][0].capitalize()}:", f" {turns[-1][1]}"


def _templated(turns: tuple[Turn, ...], tokenizer: "PreTrainedTokenizerBase") -> tuple[str, str]:
    """By the model's own chat template, up to the end token of the last message."""
    messages = [{"role": role, "content": text} for role, text in turns]
    try:
        prompt = str(tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True))
        whole = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:  # a template is a program of the model's authors and raises what it likes
        roles = ", ".join(role for role, _ in turns)
        raise UserError(
            f"the chat template of this model refuses a conversation of {roles}: {error}. Change its roles"
        ) from error
    completion = whole.removeprefix(prompt) if whole.startswith(prompt) else turns[-1][1]
    end = completion.rfind(str(tokenizer.eos_token))
    return prompt, completion[:end] if end >= 0 else completion.rstrip("\n")


def _ids(texts: list[str], tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    return [list(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]


def _start(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The beginning-of-sequence token, if this tokenizer writes it. Chat templates write their own."""
    first = tokenizer("a", verbose=False)["input_ids"][:1]
    return first if tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id] else []
