"""What a fair comparison asks for: known to the sweeps that run one and to the analysis that judges it."""

FEWEST_SEEDS = 3  # below it no verdict is given
ADVISED_SEEDS = 5
FEWEST_POINTS = 3  # values tried of what is tuned, from which on validation can choose one
EQUAL_PARAMETERS = 0.1  # relative difference of two budgets that counts as none


def sign_flip_floor(seeds: int) -> float:
    """The smallest two-sided p that the signs of so many paired differences can reach."""
    return 2 / 2**seeds
