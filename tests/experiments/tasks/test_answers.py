"""The answer in a text: the awkward cases of each rule."""

import pytest

from experiments.errors import UserError
from experiments.tasks._answers import INVALID, check, extract, settled

NUMBERS = {
    "The answer is 72.": "72",
    "She pays $1,234.50 in all.": "1234.5",
    "10 - 3 = 7": "7",
    "it fell to -5 degrees": "-5",
    "a loss of -$12": "-12",
    "\u2212 minus sign: \u22124": "-4",
    "5-3": "3",
    "1,000,000": "1000000",
    "in all 18.00": "18",
    "so 007 it is": "7",
    "between .5 and .25": "0.25",
    "50%": "50",
    "10km": "10",
    "x2 and y": INVALID,
    "no number": INVALID,
    "-0": "0",
    "1e3? no: 12": "12",
}


@pytest.mark.parametrize(("text", "answer"), NUMBERS.items())
def test_the_last_number_has_one_spelling(text, answer):
    assert extract(text, "number") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so <<48+24=72>>72\n#### 72", "72"),
        ("#### 1,080", "1080"),
        ("#### -3", "-3"),
        ("#### 72.", "72."),  # its own rule keeps the dot, which is then wrong
        ("####72", INVALID),  # and wants the space
        ("The answer is 72", INVALID),
        ("#### $72", INVALID),
        ("#### 1\n#### 2", "1"),
    ],
)
def test_gsm8ks_own_rule_is_kept_to_the_letter(text, answer):
    assert extract(text, "gsm8k") == answer


def test_what_is_boxed_may_hold_braces():
    assert extract(r"so \boxed{1} or rather \boxed{\frac{1}{2}}.", "math") == r"\frac{1}{2}"
    assert extract(r"cut off: \boxed{\frac{1}{2", "math") == r"\frac{1}{2"
    assert extract(" 42 ", "math") == "42"


def test_mathematically_equal_answers_count_as_the_reference():
    pytest.importorskip("math_verify")
    assert settled(r"\boxed{0.5}", [r"\frac{1}{2}"], "math") == r"\frac{1}{2}"
    assert settled(r"\boxed{x + 1}", ["1 + x"], "math") == "1 + x"
    assert settled(r"\boxed{0.51}", [r"\frac{1}{2}"], "math") == "0.51"


@pytest.mark.parametrize(
    ("rule", "text", "answer"),
    [
        (None, "  as it is \n", "as it is"),
        ("letter", "The answer is (C), not D", "C"),
        ("letter", "I think it's B.", "I"),
        ("letter", "none", INVALID),
        ("first_line", "\n  one \ntwo", "one"),
        ("first_line", "", ""),
        ("re:answer is (\\w+)", "the answer is option2, or answer is option3", "option2"),
        ("re:true|false", "it is false", "false"),
        ("re:(a)|b", "b", ""),
        ("re:true|false", "no idea", INVALID),
    ],
)
def test_other_rules(rule, text, answer):
    assert extract(text, rule) == answer


def test_an_unknown_rule_names_the_nearest():
    with pytest.raises(UserError, match=r"Did you mean 'number'\?"):
        check("nubmer")
    with pytest.raises(UserError, match="no regular expression"):
        check("re:(")
    check("re:(a|b)")
