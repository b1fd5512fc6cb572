"""Statistics: pure functions on arrays, which know nothing of runs, variants or files."""

from analysis.stats.difference import *  # noqa: F403
