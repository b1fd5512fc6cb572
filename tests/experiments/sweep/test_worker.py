"""A worker alone: what it says, and to whom."""

import os

from experiments.sweep.worker import Events


def test_a_run_is_not_ended_by_the_death_of_whoever_listened():
    listening, saying = os.pipe()
    os.close(listening)
    with open(saying, "w", encoding="utf-8", closefd=False) as out:
        events = Events(out)
        for step in (1, 2):
            events.step("run", step, loss=0.5)
        os.dup2(os.open(os.devnull, os.O_WRONLY), saying)  # closing writes what is left
    os.close(saying)
