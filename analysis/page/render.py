"""The two forms of a report, a page and a text, made from the same content."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from analysis.figures import theme
from analysis.page import images
from analysis.text import flips
from analysis.text.choice import SHOWN
from analysis.text.format import amount, count, metric_name, number, percent, proper, pvalue, signed

_TEMPLATES = Path(__file__).parent / "templates"


def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    env = jinja2.Environment(
        loader=loader,
        autoescape=lambda name: name is not None and ".html" in name,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    texts = (number, metric_name, count, percent, amount, signed, pvalue, proper)
    env.filters |= {text.__name__: text for text in texts} | {"json": embedded, "cell": table_text}
    return env


def embedded(value: Any) -> Markup:
    """JSON that can stand inside a script element whatever text it holds."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def table_text(value: Any) -> str:
    """Text for a Markdown table or line: nothing in it can end a cell or start markup."""
    text = " ".join(str(value).split())
    for char in "\\|<>*_`[]":
        text = text.replace(char, "\\" + char)
    return text


def html(data: Mapping[str, Any]) -> str:
    """The page: one file with its styles, scripts and figures inside."""
    themes = {"light": theme.config(), "dark": theme.config(dark=True)}
    colours = {"light": theme.LIGHT, "dark": theme.DARK}
    script = images.bundle() if data["figures"] else ""
    read = lambda name: Markup((_TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: E731
    page = _environment().get_template("page.html.j2")
    return page.render(
        **data,
        themes=themes,
        shown=SHOWN,
        flips_shown=flips.SHOWN,
        longest=max(map(len, data["series"]), default=0),
        colours=colours,
        css=read("page.css"),
        js=read("page.js"),
        bundle=Markup(script),
    )


def markdown(data: Mapping[str, Any]) -> str:
    """The same content as text."""
    return _environment().get_template("report.md.j2").render(**data)
