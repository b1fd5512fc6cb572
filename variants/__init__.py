"""LoRA variants, one paper one module, in one frame. Imports torch and itself, nothing else of this project.

What other packages take from here is listed in `_public.py`. It is imported when the first of it is used, so
that `variants._core.names` and `costs`, which need no torch, are had without loading it. Folders named in the
environment variable ABLORA_VARIANTS are searched for modules after this one.
"""

import os
from typing import TYPE_CHECKING, Any

__path__ += [path for path in os.environ.get("ABLORA_VARIANTS", "").split(os.pathsep) if path]

if TYPE_CHECKING:
    from variants._public import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        if name.startswith("_"):  # a module of this folder, or nothing
            raise AttributeError(f"module 'variants' has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module("variants._public"), name)
