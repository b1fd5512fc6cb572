"""From a spec to a record.

Reads the data, loads the base model, trains packs of runs and writes what happened.
"""
