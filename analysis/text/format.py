"""Numbers as people read them; an unknown one is a dash, never a zero."""

import math

DASH = "\u2013"


_PROPER = {"lora": "LoRA", "dora": "DoRA", "adaLoRA": "AdaLoRA", "qLoRA": "QLoRA", "LoRAplus": "LoRA+"}


def proper(name: str) -> str:
    """The name of a variant or series as papers spell it: "DoRA, storage=nf4"; for titles."""
    head, comma, rest = name.partition(",")
    for plain, spelled in _PROPER.items():
        head = head.replace(plain, spelled)
    return head + comma + rest


_METRICS = {
    "f1": "F1", "macro_f1": "macro F1", "micro_f1": "micro F1", "token_f1": "token F1",
    "matthews": "Matthews correlation", "pearson": "Pearson correlation",
    "spearman": "Spearman correlation", "mse": "MSE", "bleu": "BLEU", "bleu_lowercase": "lower-case BLEU",
    "chrf": "chrF", "rouge_l": "ROUGE-L", "nist": "NIST", "cider": "CIDEr",
}  # fmt: skip


def metric_name(name: str) -> str:
    """A metric as papers write it: "ROUGE-L", "exact match"; with its split or task where it names one."""
    place, slash, own = name.rpartition("/")
    return place + slash + _METRICS.get(own, own.replace("_", " "))


def number(value: float | None, digits: int = 3) -> str:
    """A metric: 0.717."""
    return DASH if value is None or math.isnan(value) else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    """A difference: +0.021; one that three decimals would hide, +2.4e-05."""
    if value is None or math.isnan(value):
        return DASH
    return f"{value:+.2g}" if 0 < abs(value) < 0.0005 else f"{value:+.3f}"


def pvalue(value: float | None) -> str:
    """A p value: .0123, or <.001."""
    if value is None or math.isnan(value):
        return DASH
    return "<.001" if value < 0.001 else f"{value:.2g}" if value < 0.9995 else "1"


def count(value: float | None) -> str:
    """A whole number with separators: 78,733."""
    return DASH if value is None or math.isnan(value) else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """A share with three significant digits: 0.346%."""
    return DASH if value is None or math.isnan(value) else f"{100 * value:.3g}%"


def amount(value: float | None, unit: str = "") -> str:
    """A measured amount as it reads best: bytes as kB, MB or GB, seconds as s, min or h."""
    if value is None or math.isnan(value):
        return DASH
    if unit == "B":
        for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if value >= size:
                return f"{value / size:.3g} {name}" if value / size < 1000 else f"{value / size:,.0f} {name}"
        return f"{value:.0f} B"
    if unit == "s":
        for size, name in ((7200, "h"), (120, "min")):
            if value >= size:
                return f"{value / (3600 if name == 'h' else 60):.1f} {name}"
        return f"{value:.1f} s"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
