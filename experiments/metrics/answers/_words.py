"""Words and n-grams for NIST and CIDEr: the tokens of mteval-v13a in lower case."""

from collections import Counter
from collections.abc import Iterator, Sequence

from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

_TOKENIZER = Tokenizer13a()


def words(text: str) -> list[str]:
    """Tokens in lower case, signs apart, words with hyphens whole."""
    return _TOKENIZER(text.lower()).split()


def ngrams(tokens: Sequence[str], longest: int) -> Counter[tuple[str, ...]]:
    """How often each n-gram of 1 to `longest` words occurs."""
    return Counter(_all(tokens, longest))


def _all(tokens: Sequence[str], longest: int) -> Iterator[tuple[str, ...]]:
    for n in range(1, longest + 1):
        for i in range(len(tokens) - n + 1):
            yield tuple(tokens[i : i + n])
