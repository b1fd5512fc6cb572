"""What a run tells whoever watches it: the part of the display that runs themselves talk to."""

from typing import Protocol


class Progress(Protocol):
    """Told how runs go. The terminal's display is one, the events of a worker process are another."""

    def run_started(self, run_id: str, steps: int, done: int = 0) -> None:
        """A run of `steps` steps begins, or goes on after `done` of them."""

    def step(self, run_id: str, step: int, loss: float | None = None) -> None:
        """So many steps are done."""

    def note(self, text: str) -> None:
        """Something a person should read."""


class Silent:
    """Nobody watches."""

    def run_started(self, run_id: str, steps: int, done: int = 0) -> None:
        """Nothing."""

    def step(self, run_id: str, step: int, loss: float | None = None) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
