"""What all variants share: the frame that papers are parts of. `names` and `costs` need no torch."""
