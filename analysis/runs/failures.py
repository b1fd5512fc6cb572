"""Runs without a result, counted where their results would have counted.

A run that failed says little of itself: neither the metric that judges it, nor its data, nor always the GPU
it was to run on. Its spec says which cell it is of, and that decides: it takes metric, split and stack from
the completed runs of its cell, else of its model and data. Where those are of several stacks, it counts in
the one with which its own record agrees most.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from analysis.runs import identity

_DATA = ("model", "model_options", "dataset", "dataset_options")


class Place(NamedTuple):
    """What a run without a result takes from runs that have one."""

    primary: Mapping[str, Any]
    split: str
    stack: str


def split_of(content: Mapping[str, Any]) -> str:
    """Where the result of a completed run was measured: on test, or on validation alone."""
    tested = f"test/{content['primary']['metric']}" in content["metrics"]
    return "test" if tested else "validation"


def places(contents: Collection[Mapping[str, Any]]) -> dict[str, Place]:
    """The place of every run that was not completed, by run_id; none where no run like it was.

    Args:
        contents: all records of a study.
    """
    lost = [content for content in contents if content["status"] != "completed"]
    if not lost:
        return {}
    known: dict[str, dict[tuple[str, ...], Mapping[str, Any]]] = {}  # one record per key and place
    for content in contents:
        if content["status"] == "completed":
            primary = content["primary"]
            place = (primary["metric"], primary["goal"], split_of(content), identity.stack(content))
            for key in _keys(content):
                known.setdefault(key, {}).setdefault(place, content)
    found = {}
    for content in lost:
        near = next((known[key] for key in _keys(content) if key in known), {})
        if near:
            best = max(near.values(), key=lambda done: (_agreement(content, done), split_of(done) == "test"))
            found[content["run_id"]] = Place(best["primary"], split_of(best), identity.stack(best))
    return found


def _keys(content: Mapping[str, Any]) -> tuple[str, str, str]:
    """Whose results a run could have had, the nearest first: its cell's, its data's in its phase, or any."""
    spec, phase = content["spec"], content.get("phase", "run")
    data = identity.digest({key: spec.get(key) for key in _DATA})
    return f"{identity.spec_key(spec)} {phase}", f"{data} {phase}", data


def _agreement(lost: Mapping[str, Any], done: Mapping[str, Any]) -> int:
    theirs = identity.stack_parts(done)
    own = identity.stack_parts(lost).items()
    return sum(value is not None and theirs.get(name) == value for name, value in own)
