"""A sweep: its cells (grid), what of them is missing (plan), and the engine that runs it."""
