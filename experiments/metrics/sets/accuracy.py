"""Subset accuracy, as a module of `evaluate`: the share of examples whose whole set of classes is right."""

from experiments.metrics import _base


class Accuracy(_base.Sets):
    """The share of sets that are right in every class; 1 is best."""

    is_mean = True

    def one(self, prediction: list[int], reference: list[int]) -> float:
        """Right or not."""
        return float(set(prediction) == set(reference))
