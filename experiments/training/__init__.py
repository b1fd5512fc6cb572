"""From one spec to one record: the loop over packs, optimiser, evaluation, checkpoints and diagnostics."""
