"""The W&B server, and what it has of a run. That is the truth here: no ledger of ours stands beside it.

A history is read back row by row, and the count of lines that the server took says whether that was all: a
server that is still digesting shows fewer rows than it took, and nothing is added on such a view.
"""

import time
from dataclasses import dataclass
from typing import Any

from experiments.errors import UserError
from experiments.tracking._rows import own

NO_KEY = "no API key for W&B: run `wandb login` or set WANDB_API_KEY"
RETRIES = 4  # of a request that fails; the client's own default goes on for hours


@dataclass(frozen=True)
class Held:
    """What the server has of one run."""

    rows: list[dict[str, Any]]  # the history, without W&B's own columns
    lines: int  # how many rows the server took
    state: str  # running, finished, failed, crashed
    summary: dict[str, Any]
    url: str

    @property
    def complete(self) -> bool:
        """Whether the rows are all that the server took."""
        return len(self.rows) >= self.lines


def log_in() -> None:
    """Find the account, asking nobody; UserError where there is none."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))  # or the login would greet the user once per process
    if not wandb.login(prompt=False, verify=False):  # a prompt would stop a sweep that nobody watches
        raise UserError(NO_KEY)


class Server:
    """A connection to read with.

    Raises:
        UserError: There is no account, or the server refuses it or does not answer within `timeout` seconds.
    """

    def __init__(self, timeout: float):
        log_in()
        import wandb

        settings = wandb.setup().settings
        usual, settings.x_graphql_retry_max = settings.x_graphql_retry_max, RETRIES
        try:
            self._api = wandb.Api(timeout=max(1, round(timeout)))
        except wandb.Error as error:
            raise UserError(
                f"W&B does not answer, or refuses the account ({_first_line(error)}). Check the network, "
                f"WANDB_BASE_URL and the API key. Nothing is lost: the run folders have it all."
            ) from error
        finally:
            settings.x_graphql_retry_max = usual  # runs that are logged may try for longer

    def held(self, entity: str | None, project: str, run_id: str, *, patience: float = 0.0) -> Held | None:
        """What the server has of a run, or None if it knows no such run.

        Args:
            entity: Whose project it is; None for the account's default.
            project: Its project.
            run_id: Its id.
            patience: Seconds to wait for a server that does not show all rows that it took.
        """
        deadline = time.monotonic() + patience
        while True:
            found = self._held(f"{entity or self._api.default_entity}/{project}/{run_id}")
            if found is None or found.complete or time.monotonic() > deadline:
                return found
            time.sleep(min(1.0, patience / 4))

    def _held(self, path: str) -> Held | None:
        from wandb.apis.public.runs import RunNotFoundError
        from wandb.errors import CommError

        self._api.flush()  # or the client would answer from its memory
        try:
            run = self._api.run(path)
        except CommError as error:
            if isinstance(error.exc, RunNotFoundError):
                return None
            raise
        return Held(
            rows=[own(row) for row in run.scan_history(use_cache=False)] if run.lastHistoryStep >= 0 else [],
            lines=int(run.historyLineCount or 0),
            state=run.state,
            summary=dict(run.summary_metrics),
            url=run.url,
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
