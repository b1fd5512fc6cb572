r"""What of a generated text is the answer, before it is compared. The same rule reads the reference.

None      the text without white space around it
gsm8k     GSM8K's own rule: what stands after "#### ", without commas; "[invalid]" where nothing does
number    the last number in the text, as a number: "$1,234.50." is 1234.5; "[invalid]" without any
math      what is in the last \boxed{}, else the text; equal to a reference if `math-verify` proves it
letter    the first capital letter that stands alone, A to J
first_line  the first line that is not empty
re:...    the first group (or all) of the first match of a regular expression; "[invalid]" without one
"""

import re
from collections.abc import Sequence
from decimal import Decimal

from experiments.errors import UserError, did_you_mean

INVALID = "[invalid]"
RULES = ("gsm8k", "number", "math", "letter", "first_line")
_GSM8K = re.compile(r"#### (\-?[0-9\.\,]+)")  # as in grade_school_math/dataset.py
_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(rf"(?<![\w.])[-+\u2212]?[$€£]?[-\u2212]?(?:{_WHOLE})")
_LETTER = re.compile(r"(?<![A-Za-z])([A-J])(?![A-Za-z'])")


def check(rule: str | None) -> None:
    """UserError if there is no such rule."""
    if rule is None or rule in RULES:
        return
    if rule.startswith("re:"):
        try:
            re.compile(rule[3:])
        except re.error as error:
            raise UserError(f"dataset.answer={rule} is no regular expression: {error}") from error
        return
    raise UserError(
        f"dataset.answer={rule} is no rule for taking the answer out of a text.{did_you_mean(rule, RULES)} "
        f"Take one of {', '.join(RULES)}, re:<regular expression>, or null for the whole text"
    )


def extract(text: str, rule: str | None) -> str:
    """The answer in a text."""
    if rule is None:
        return text.strip()
    if rule == "gsm8k":
        match = _GSM8K.search(text)
        return match.group(1).strip().replace(",", "") if match else INVALID
    if rule == "number":
        found = _NUMBER.findall(text)
        return _plain(found[-1]) if found else INVALID
    if rule == "math":
        return _boxed(text)
    if rule == "letter":
        match = _LETTER.search(text)
        return match.group(1) if match else INVALID
    if rule == "first_line":
        return next((line.strip() for line in text.splitlines() if line.strip()), "")
    match = re.search(rule[3:], text)
    return (match.group(1) if match.re.groups else match.group()) or "" if match else INVALID


def settled(text: str, references: Sequence[str], rule: str | None) -> str:
    """The answer in a text, as the reference that it is mathematically equal to where the rule is math."""
    answer = extract(text, rule)
    if rule != "math" or answer in references:
        return answer
    return next((r for r in references if _equal(r, answer)), answer)


def _plain(text: str) -> str:
    """A number in one spelling: no sign of a currency, no thousands, no zeros at the end."""
    digits = re.sub(r"[^\d.\-]", "", text.replace("\u2212", "-"))
    value = Decimal(digits)
    plain = format(value.normalize(), "f")
    return "0" if plain == "-0" else plain


def _boxed(text: str) -> str:
    start = text.rfind(r"\boxed{")
    if start < 0:
        return text.strip()
    depth, first = 0, start + len(r"\boxed")
    for place in range(first, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[first + 1 : place].strip()
    return text[first + 1 :].strip()


def _equal(reference: str, answer: str) -> bool:
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise UserError(
            "dataset.answer=math compares by math-verify, which is not installed: pip install 'ablora[math]'"
        ) from error
    gold, found = (parse(f"${text}$", parsing_timeout=None) for text in (reference, answer))
    return bool(verify(gold, found, timeout_seconds=None))
