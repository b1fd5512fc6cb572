"""What the project takes by default, for measurements: its model and its variants' options."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from experiments.conf import Conf
from experiments.settings import Train

_CONF = Conf(Path(__file__).parents[2] / "conf")


def default_spec() -> Any:
    """What loading reads of a spec, for the default model."""
    options = {key: value for key, value in _CONF.read("model", "minilm").items() if key != "ranges"}
    return SimpleNamespace(model="minilm", model_options=options, train=Train())


def variant_options(*names: str) -> dict[str, dict]:
    """The options of these variants, by name."""
    return {name: _CONF.read("variant", name) for name in names}
