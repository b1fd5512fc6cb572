"""Mean squared error, as a module of `evaluate`."""

from experiments.metrics import _base


class Mse(_base.Values):
    """The mean of the squared differences; 0 is best."""

    goal, is_mean = "min", True

    def one(self, prediction: float, reference: float) -> float:
        """The squared difference."""
        return (prediction - reference) ** 2
