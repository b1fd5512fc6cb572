"""Where a base model's files are. No torch, no transformers.

A model is looked for in a folder (model.path), then in an installed package that carries it (model.package,
found by its metadata, never imported), then in the folder that model.name may be, then in the hub's cache,
then on the hub.
"""

import importlib.metadata
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from experiments.errors import UserError, did_you_mean
from experiments.models._check import PICKLES, check, one_line

_WANTED = ("*.json", "*.txt", "*.jinja", "*.model", "model*.safetensors")


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


def find(spec: Spec) -> Source:
    """The folder that holds the model, downloaded first if need be; UserError if there is none."""
    options = spec.model_options
    local = local_source(spec)
    if local is not None:
        return local
    if not options.get("name"):
        raise UserError(
            f"model={spec.model} needs to know which model. Give model.path=<folder> or a name from the hub, "
            "such as model=hf model.name=roberta-base"
        )
    return _from_hub(spec)


def local_source(spec: Spec) -> Source | None:
    """The folder of a model that is here already without asking the hub's library; None if it is not."""
    options = spec.model_options
    path, name = options.get("path"), options.get("name")
    if path:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            parent = next(p for p in folder.absolute().parents if p.is_dir())
            names = sorted(p.name for p in parent.iterdir() if p.is_dir())
            raise UserError(
                f"model.path={path}: there is no such folder (looked for {folder.absolute()}; {parent} holds "
                f"the folders {', '.join(names[:8]) or 'none'}).{did_you_mean(folder.name, names)} Give the "
                "folder that holds config.json"
            )
        return Source(folder, f"folder {folder.absolute()}")
    if options.get("package") and (found := _in_package(options["package"])):
        return found
    if name and Path(name).expanduser().is_dir():
        return Source(Path(name).expanduser(), f"folder {Path(name).expanduser().absolute()}")
    return None


def cached_source(spec: Spec) -> Source | None:
    """The snapshot of a model in the hub's cache, by the cache's own layout, if it has a config."""
    name, revision = spec.model_options.get("name"), spec.model_options.get("revision") or "main"
    if not name:
        return None
    home = Path(
        os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    ).expanduser()
    cache = (
        Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
        / f"models--{name.replace('/', '--')}"
    )
    reference = cache / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    folder = cache / "snapshots" / commit
    return Source(folder, f"hub {name}@{commit}") if (folder / "config.json").is_file() else None


def _in_package(package: str) -> Source | None:
    """The folder of an installed package that holds a config.json beside weights. Nothing is imported."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in distribution.files or ():
        if file.name == "model.safetensors":
            folder = Path(str(distribution.locate_file(file))).parent
            if (folder / "config.json").is_file():
                return Source(folder, f"package {package} {distribution.version}")
    return None


def _from_hub(spec: Spec) -> Source:
    """A snapshot from the hub's cache if it is whole, else downloaded."""
    from huggingface_hub import utils

    options, name = spec.model_options, spec.model_options["name"]
    utils.disable_progress_bars()
    try:
        folder = _snapshot(options, local=True)
        if _whole(folder, options, spec.model):
            return Source(folder, f"hub {name}@{folder.name}")
    except (OSError, ValueError):
        pass  # not here yet; what is wrong with the name itself is said below
    utils.enable_progress_bars()  # a download takes minutes and shows how far it is
    try:
        folder = _snapshot(options, local=False)
    except (OSError, ValueError) as error:  # the hub's own errors are all of these
        remedy = f"pip install {options['package']}, or " if options.get("package") else ""
        raise UserError(
            f"model={spec.model}: {name} (revision {options.get('revision') or 'main'}) is neither on this "
            f"machine nor to be had from the hub: {one_line(error)}. Check the name and the network, or "
            f"without a network: {remedy}copy the model's folder here and give model.path=<folder>"
        ) from error
    return Source(folder, f"hub {name}@{folder.name}")


def _snapshot(options: Mapping[str, Any], *, local: bool) -> Path:
    from huggingface_hub import snapshot_download

    pickles = PICKLES if options.get("allow_pickle") else ()
    folder = snapshot_download(
        options["name"],
        revision=options.get("revision"),
        allow_patterns=[*_WANTED, *pickles],
        ignore_patterns=["*/*"],
        local_files_only=local,
    )
    return Path(folder)


def _whole(folder: Path, options: Mapping[str, Any], name: str) -> bool:
    try:
        check(folder, {**options, "sha256": None}, name=name)
    except UserError:
        return False
    return True
