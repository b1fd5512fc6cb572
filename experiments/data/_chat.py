"""From the turns of a conversation to the tokens of its prompt and of its completion.

Only what a template writes around the turns holds special tokens. A special token's text inside the data,
such as "</s>" in a sentence about tokenizers, is text like any other.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiments.data._tasks import Conversation, Turn
from experiments.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OPEN, _CLOSE = (
    "\ue0d0",
    "\ue0d1",
)  # around the number of a special token's text while a template is filled in
_ANSWER = "Answer"  # stands for any answer where only what the template writes around it is wanted


def render(
    conversations: Sequence[Conversation], tokenizer: "PreTrainedTokenizerBase"
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
    special = _special(tokenizer)
    texts = [
        _plain(turns, str(tokenizer.eos_token)) if bare else _templated(turns, tokenizer, special)
        for turns, bare in zip(conversations, plain, strict=True)
    ]
    prompts = _ids([prompt for prompt, _ in texts], plain, tokenizer, special)
    completions = _ids([completion for _, completion in texts], plain, tokenizer, special)
    return [
        (start + prompt if bare else prompt, completion if completion[-1:] == [end] else [*completion, end])
        for prompt, completion, bare in zip(prompts, completions, plain, strict=True)
    ]


def remarks(conversations: Sequence[Conversation], tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """How the model's chat template is used, where it has one or chats would need one."""
    pairs = any(turns[0][0] == "prompt" for turns in conversations)
    chats = any(turns[0][0] != "prompt" for turns in conversations)
    notes = []
    if pairs and tokenizer.chat_template:
        notes.append(
            "the model has a chat template, but prompts and completions are plain text outside it "
            "(dataset.chat=true puts them into it)"
        )
    if chats and tokenizer.chat_template:
        notes.append("chats are written with the model's own chat template")
    elif chats:
        notes.append(
            'the model has no chat template: chats are lines such as "User: ..." and "Assistant: ..."'
        )
    return notes


def _plain(turns: Conversation, end: str) -> tuple[str, str]:
    """Prompt and completion as they are, with a line break at a bare seam; chats as "Role: text" lines.

    An end token that a completion writes itself is left to the one that every completion gets.
    """
    if turns[0][0] == "prompt":
        prompt, completion = turns[0][1], turns[1][1].removesuffix(end)
        seam = "" if prompt[-1:].isspace() or completion[:1].isspace() else "\n"
        return prompt + seam, completion
    lines = "".join(f"{role.capitalize()}: {text}\n" for role, text in turns[:-1])
    return f"{lines}{turns[-1][0].capitalize()}:", f" {turns[-1][1].removesuffix(end)}"


def _special(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The texts of all special tokens, longer ones first."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return sorted({*added, *tokenizer.all_special_tokens}, key=lambda text: (-len(text), text))


def _templated(
    turns: Conversation, tokenizer: "PreTrainedTokenizerBase", special: Sequence[str]
) -> tuple[str, str]:
    """By the model's own chat template, up to the end token of the last message.

    The prompt is what the template opens an answer with and also writes before a finished one: some open
    with <think>, which no answer of a chat that is learned from begins with.
    """
    *before, (role, answer) = [(role, _hidden(text, special)) for role, text in turns]
    opened = _filled(before, tokenizer, opened=True)
    sample = _filled([*before, (role, _ANSWER)], tokenizer)
    head, found, tail = sample.rpartition(_ANSWER)
    prompt = opened[: _shared(opened, head)]
    if before and not _holds(prompt, before[-1][1]):  # it writes them otherwise once an answer follows
        prompt, filled = opened, opened + answer + tail
    else:
        filled = _filled([*before, (role, answer)], tokenizer) if answer else head + tail
    body = filled[len(prompt) :]
    if not found or not filled.startswith(prompt) or not _holds(body, answer):
        raise UserError(
            f"the chat template of this model leaves out part of an answer, such as {turns[-1][1][:60]!r}. "
            "Change the answer, or write chats as plain lines: dataset.chat=false"
        )
    until = tail.find(str(tokenizer.eos_token))
    return prompt, body.removesuffix(tail) + (tail[:until] if until >= 0 else tail.rstrip("\n"))


def _shared(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _filled(turns: Sequence[Turn], tokenizer: "PreTrainedTokenizerBase", *, opened: bool = False) -> str:
    messages = [{"role": role, "content": text} for role, text in turns]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opened))
    except Exception as error:  # a template is a program of the model's authors and raises what it likes
        roles = ", ".join(role for role, _ in turns)
        raise UserError(
            f"the chat template of this model refuses a conversation of {roles}: {error}. Change its roles"
        ) from error


def _holds(text: str, answer: str) -> bool:
    """Whether an answer stands in what a template made of it; templates may trim white space."""
    return "".join(answer.split()) in "".join(text.split())


def _hidden(text: str, special: Sequence[str]) -> str:
    """The text with those of special tokens behind signs that no template knows."""
    if not any(name in text for name in special):
        return text
    pattern = "|".join(map(re.escape, special))
    return re.sub(pattern, lambda match: f"{_OPEN}{special.index(match[0])}{_CLOSE}", text)


def _ids(
    texts: Sequence[str], plain: Sequence[bool], tokenizer: "PreTrainedTokenizerBase", special: Sequence[str]
) -> list[list[int]]:
    """Token ids: texts of the data with no special tokens, those of a template with its own."""
    result: list[list[int]] = [[]] * len(texts)
    for bare in (True, False):
        rows = [row for row, same in enumerate(plain) if same == bare]
        found = _tokens([texts[row] for row in rows], tokenizer, split=bare) if rows else []
        for row, ids in zip(rows, found, strict=True):
            hidden = not bare and _OPEN in texts[row]
            result[row] = _piecewise(texts[row], tokenizer, special) if hidden else ids
    return result


def _piecewise(text: str, tokenizer: "PreTrainedTokenizerBase", special: Sequence[str]) -> list[int]:
    """The tokens of a filled template in which special tokens' texts are hidden."""
    ids: list[int] = []
    for number, piece in enumerate(re.split(f"{_OPEN}(\\d+){_CLOSE}", text)):
        hidden = bool(number % 2)
        ids += _tokens([special[int(piece)] if hidden else piece], tokenizer, split=hidden)[0]
    return ids


def _tokens(texts: list[str], tokenizer: "PreTrainedTokenizerBase", *, split: bool) -> list[list[int]]:
    """Token ids of each; with `split` a special token's text is split like any other."""
    if getattr(tokenizer, "is_fast", False):  # without what transformers makes of each text beside its ids
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = split
        return [encoded.ids for encoded in backend.encode_batch_fast(texts, add_special_tokens=False)]
    options: Any = {"add_special_tokens": False, "verbose": False, "split_special_tokens": split}
    return [list(ids) for ids in tokenizer(texts, **options)["input_ids"]]


def _start(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The beginning-of-sequence token, if this tokenizer writes it. Chat templates write their own."""
    first = tokenizer("a", verbose=False)["input_ids"][:1]
    return first if tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id] else []
