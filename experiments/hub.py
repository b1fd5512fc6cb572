"""What the library of the Hugging Face hub raises, and why in a few words."""


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
