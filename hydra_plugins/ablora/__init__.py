"""Faces for Hydra on experiments.sweep. Hydra imports them at every start: nothing heavy at their top."""
