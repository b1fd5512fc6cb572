"""A dict that cannot change and can be hashed."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any


class FrozenDict(dict[str, Any]):
    """Options as part of a spec. Nothing in it is None: what is not set is absent."""

    def __init__(self, items: Mapping[str, Any] | None = None):
        super().__init__({key: frozen(value) for key, value in (items or {}).items() if value is not None})

    def __hash__(self) -> int:  # type: ignore[override]
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)

    def _refuse(self, *_: object, **__: object) -> Any:
        raise TypeError("the parts of a spec cannot be changed; use dataclasses.replace")

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse


def frozen(value: Any) -> Any:
    """`value` with its lists as tuples and its mappings frozen."""
    if isinstance(value, FrozenDict | str | float | int):
        return value
    if isinstance(value, Mapping):
        return FrozenDict(value)
    return tuple(frozen(v) for v in value) if isinstance(value, list | tuple) else value
