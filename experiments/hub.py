"""Files of the Hugging Face hub: from its cache, else downloaded; what its library raises, and why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def snapshot(name: str, whole: Callable[[Path], bool], **wanted: Any) -> Path:
    """The folder of a repository's commit, from the hub's cache if it is `whole` there, else downloaded.

    Args:
        name: Of the repository.
        whole: Whether a folder has all that is wanted.
        wanted: As of `huggingface_hub.snapshot_download`, which may raise what `errors` names.
    """
    from huggingface_hub import snapshot_download, utils

    utils.disable_progress_bars()
    try:
        folder = Path(snapshot_download(name, local_files_only=True, **wanted))
        if whole(folder):
            return folder
    except (OSError, ValueError):
        pass  # not here yet; what is wrong with the name itself the hub says
    utils.enable_progress_bars()  # a download takes minutes and shows how far it is
    return Path(snapshot_download(name, **wanted))


def errors() -> tuple[type[Exception], ...]:
    """What the hub's library raises: its own errors, and those of the library by which it asks."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, ValueError, *HfHubHTTPError.__bases__)


def reason(error: Exception) -> str:
    """Why the hub gave nothing, in a few words."""
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, LocalEntryNotFoundError):  # says where it looked, and that it could not ask
        return "it cannot be reached"
    if isinstance(error, RepositoryNotFoundError):
        return "it has no such table, or a private one"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision of it"
    return " ".join(str(error).split()).rstrip(".")[:200]
