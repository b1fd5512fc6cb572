"""A W&B server on this machine, small enough to read: it keeps what the client sends and can be told to fail.

It knows what a client of 0.31 asks to log, to resume and to read back. Rows are kept by their offset, as W&B
keeps them: a chunk that is sent again replaces itself, a row that is logged again is one more row.
"""

import json
import os
import re
import subprocess
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from experiments import record
from experiments.console.commands import run as command_line
from experiments.tracking import wandb as backend

_PROJECT = {"id": "p", "name": "demo", "entity": {"id": "e", "name": "me"}}
_VIEWER = {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}


@dataclass
class StoredRun:
    """One run as the server has it."""

    name: str
    project: str
    upsert: dict = field(default_factory=dict)  # the first: names, group, config
    config: dict = field(default_factory=dict)  # the latest
    lines: dict[int, dict] = field(default_factory=dict)  # history rows by offset
    summary: dict = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)  # one for each time that the run was ended
    open: bool = True

    @property
    def rows(self) -> list[dict]:
        """The history as it arrived, without the client's own columns."""
        kept = [self.lines[offset] for offset in sorted(self.lines)]
        return [{key: value for key, value in row.items() if not key.startswith("_")} for row in kept]

    @property
    def state(self) -> str:
        """What W&B calls it; one that was killed stays "running" for some minutes, then "crashed"."""
        return "running" if self.open else "failed" if self.exit_codes[-1] else "finished"


class WandbServer(ThreadingHTTPServer):
    """What arrived. `failing` (or a post to /fail): every answer is a 500; `hidden` last rows stay unread."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.failing = False
        self.hidden = 0
        self.refused = 0
        self.runs: dict[str, StoredRun] = {}
        self.asked: dict[str, int] = defaultdict(int)  # how often, by operation

    def take_stream(self, name: str, part: dict) -> None:
        """What a client posts while it logs."""
        run = self.runs[name]
        chunk = part.get("files", {}).get("wandb-history.jsonl", {})
        for at, line in enumerate(chunk.get("content", []), chunk.get("offset", 0)):
            run.lines[at] = json.loads(line)
        for line in part.get("files", {}).get("wandb-summary.json", {}).get("content", []):
            run.summary = json.loads(line)
        if part.get("complete"):
            run.exit_codes.append(part["exitcode"])
            run.open = False

    def answer(self, query: str, asked: dict) -> dict:
        """The answer to a GraphQL query."""
        kind = re.search(r"(?:query|mutation)\s+(\w+)", query).group(1)
        self.asked[kind] += 1
        run = self.runs.get(asked.get("name") or asked.get("run") or asked.get("runName") or "")
        of_run = lambda facts: {"project": {"internalId": "1", "run": run and facts}}  # noqa: E731
        match kind:
            case "UpsertBucket":
                return self._upsert(asked)
            case "RunResumeStatus":
                return {"model": {**_PROJECT, "bucket": run and _resume_status(run)}}
            case "Run":
                return of_run(run and _facts(run))
            case "RunHistoryKeys":
                return of_run({"historyKeys": run and _facts(run)["historyKeys"]})
            case "RunParquetHistory":
                return of_run({"parquetHistory": {"parquetUrls": [], "liveData": []}})
            case "HistoryPage":
                steps = range(asked["minStep"], asked["maxStep"])
                shown = [run.lines[at] for at in sorted(run.lines)][: len(run.lines) - self.hidden]
                return of_run({"history": [json.dumps(row) for row in shown if row["_step"] in steps]})
            case "CreateRunFiles":
                at = f"{self.url}/up/{asked['run']}"
                files = [{"name": name, "uploadUrl": f"{at}/{name}"} for name in asked["files"]]
                return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
            case "CreateArtifact":  # "committed" makes the client upload nothing
                versions = {"id": "s", "latestArtifact": {"id": "a", "versionIndex": 0}}
                artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": versions}
                return {"createArtifact": {"artifact": artifact}}
            case "ArtifactType":
                return {"project": None}
            case _:
                return {"viewer": _VIEWER}

    def _upsert(self, asked: dict) -> dict:
        known = asked["name"] in self.runs
        run = self.runs.setdefault(asked["name"], StoredRun(asked["name"], asked["project"], upsert=asked))
        if asked.get("config"):
            run.config = {key: value["value"] for key, value in json.loads(asked["config"]).items()}
        run.open = True
        bucket = {"id": "b", "name": run.name, "displayName": "", "project": _PROJECT}
        return {
            "upsertBucket": {"bucket": {**bucket, "historyLineCount": len(run.lines)}, "inserted": not known}
        }


def _facts(run: StoredRun) -> dict:
    """A run as the client's public interface asks for it."""
    last = max((row["_step"] for row in run.lines.values()), default=-1)
    names = ("sweepName", "commit", "description", "notes")
    return {
        **dict.fromkeys(names),
        "id": "b", "projectId": "1", "name": run.name, "displayName": run.name, "readOnly": False,
        "state": run.state, "tags": run.upsert.get("tags"), "group": run.upsert.get("groupName"),
        "jobType": run.upsert.get("jobType"), "createdAt": "2026-01-01T00:00:00Z",
        "heartbeatAt": "2026-01-01T00:00:00Z", "systemMetrics": "{}", "config": "{}",
        "summaryMetrics": json.dumps(run.summary), "historyLineCount": len(run.lines),
        "user": {"name": "me", "username": "me"}, "historyKeys": {"lastStep": last, "keys": {}},
    }  # fmt: skip


def _resume_status(run: StoredRun) -> dict:
    last = run.lines[max(run.lines)] if run.lines else {}
    return {
        "id": "b", "name": run.name, "displayName": run.name, "summaryMetrics": json.dumps(run.summary),
        "historyTail": json.dumps([json.dumps(last)] if last else []), "eventsTail": "[]",
        "historyLineCount": len(run.lines), "eventsLineCount": 0, "logLineCount": 0,
        "config": json.dumps({key: {"value": value} for key, value in run.config.items()}), "tags": [],
        "notes": "", "wandbConfig": '{"t": 1}',
    }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.failing:
            self.server.refused += 1
            self._answer({}, status=500)
        elif self.path == "/fail":
            self.server.failing = True
            self._answer({})
        elif self.path.endswith("/file_stream"):
            self.server.take_stream(self.path.split("/")[-2], json.loads(body))
            self._answer({"exitcode": None, "limits": {}})
        elif self.path == "/graphql":
            asked = json.loads(body)
            self._answer({"data": self.server.answer(asked["query"], asked.get("variables") or {})})
        else:
            if self.path.startswith("/up/"):
                run, _, name = self.path.removeprefix("/up/").partition("/")
                self.server.runs[run].files[name] = body
            self._answer({})

    do_PUT = do_GET = do_POST

    def _answer(self, content: dict, *, status: int = 200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Silent."""


@pytest.fixture
def wandb_server():
    """A running W&B stand-in on this machine, closed afterwards."""
    server = WandbServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(monkeypatch, tmp_path):
    """W&B's client with no settings from elsewhere, its service ended after the test."""
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(backend._Server, "unreachable", None)
    monkeypatch.setattr(backend._Server, "announced", False)
    monkeypatch.setattr(backend._Server, "open_runs", 0)
    wandb = pytest.importorskip("wandb")
    yield wandb
    killed = []

    def kill():
        killed.append(subprocess.run(["pkill", "-KILL", "-P", str(os.getpid()), "wandb-core"], check=True))

    last = threading.Timer(30, kill)  # its service has been seen to hang where the server had gone
    last.start()
    try:
        wandb.teardown()
    except SystemExit:
        last.join(1)
        assert killed, "W&B's service ended with an error"
    last.cancel()


@pytest.fixture
def online(client, wandb_server, monkeypatch):
    """The client, logged in to the stand-in server."""
    monkeypatch.setenv("WANDB_BASE_URL", wandb_server.url)
    monkeypatch.setenv("WANDB_API_KEY", "local-" + "a" * 40)
    return wandb_server


@pytest.fixture
def notes():
    """The lines that a person would see."""
    return []


@pytest.fixture
def events():
    """What a run folder's events.jsonl names, in order."""

    def read(folder):
        return [row["event"] for row in record.read_history(record.RunFolder(folder).events)]

    return read


@pytest.fixture
def command(capsys):
    """`python -m experiments.sweep` with these words: its exit code and what it printed."""

    def call(*words):
        code = command_line("experiments.sweep", "", list(words))
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return call
