"""The datasets that a run is measured on beside its own.

    test   instead of a test split of its own: dataset.test=[gsm8k,math]
    also   before and after training, to see what was lost: dataset.also=[wikitext]

Each is a file of conf/dataset, given by its name, or with the path of its files: {wikitext: wiki.parquet}.
"""

from collections.abc import Mapping
from typing import Any

from experiments.errors import UserError, did_you_mean

BESIDE = ("test", "also")


def named(given: Any, role: str) -> list[tuple[str, dict[str, Any]]]:
    """The name and the options of each dataset of a role.

    Args:
        given: The option: a name, several, or paths by name.
        role: One of BESIDE, for the errors.
    """
    from experiments.config.groups import CONF, Conf

    if not given:
        return []
    names = [given] if isinstance(given, str) else given
    paths = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names)
    conf, found = Conf(CONF), []
    for choice, path in paths.items():
        known = conf.choices("dataset")
        if choice not in known:
            raise UserError(f"dataset.{role}={choice} is no dataset.{did_you_mean(choice, known)}")
        options = {key: v for key, v in conf.read("dataset", choice).items() if key != "ranges"}
        found.append((str(options.pop("name")), options | ({"path": path} if path else {})))
    return found
