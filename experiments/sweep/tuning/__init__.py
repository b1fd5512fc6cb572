"""Fair comparison by protocol: tune on validation with some seeds, confirm on others, test once.

What is where:
    settings.py   what hydra.sweeper.* may say
    grids.py      which values a cell has tried, which is best, how all grids grow together
    protocol.py   from the records that there are to the runs that are missing
    rounds.py     round after round through a launcher
"""
