"""From a spec to a record: reads the data, loads the base model, trains packs of runs and writes what happened."""
