"""Commands that are at a study: each holds a claim on a name of its own from before it plans to its end.

So others see it before its first run begins and between two runs; killed, it is forgotten as any holder is.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.sweep.lease import claim, holder, is_held

_PREFIX = ".engine-"  # no run's name begins with a dot


@contextmanager
def at_work(study: Path) -> Iterator[None]:
    """While open, this process is at the study."""
    held = claim(study / ".claims", f"{_PREFIX}{secrets.token_hex(8)}")
    assert held is not None, "a name that nobody had before"
    with held:
        try:
            yield
        finally:
            held.remove()


def commands_at(study: Path) -> list[dict[str, Any]]:
    """The processes that are at a study, as `claim.holder` tells them: host, pid, since."""
    claims = study / ".claims"
    names = sorted({path.name.rpartition(".")[0] for path in claims.glob(f"{_PREFIX}*.*")})
    return [held for name in names if is_held(claims, name) and (held := holder(claims, name))]
