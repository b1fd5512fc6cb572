"""A preview of a sweep: what it would run, what that costs, what it can show and whether it is fair."""
