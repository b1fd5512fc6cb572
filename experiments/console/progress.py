"""What a run tells whoever watches it: the part of the display that runs themselves talk to."""


class Progress:
    """Receives how runs go and shows nothing; the terminal's display and a worker's events are subclasses."""

    def run_started(self, run_id: str, steps: int, done: int = 0) -> None:
        """A run of `steps` steps begins, or goes on after `done` of them."""

    def step(self, run_id: str, step: int, loss: float | None = None) -> None:
        """So many steps are done."""

    def note(self, text: str) -> None:
        """Something a person should read."""
