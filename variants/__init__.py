"""What each paper adds, as parts of one frame. Imports torch and itself, nothing else of this project.

`_doors.py` lists what other rooms take from here. It is imported when the first of it is asked for, so that
what needs no torch (`variants._patterns`) is had without loading it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from variants._doors import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        if name.startswith("_"):  # a module of this folder, or nothing
            raise AttributeError(f"module 'variants' has no attribute {name!r}")
        from variants import _doors

        return getattr(_doors, name)
