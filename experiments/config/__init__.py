"""From the words of a command to RunSpecs: keys and types, the files of conf/, the grid, messages, help."""
