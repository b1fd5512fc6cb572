"""A sweep as arrays of Slurm jobs: submit, and return. Slurm is the engine, the shared folder the memory.

settings.py    the keys of hydra/launcher=slurm, and the resources of a run
submission.py  what was submitted, as files under runs/<study>/.slurm/<number>/
script.py      what a job runs: the code as it is at submission, and its script
submit.py      from specs to arrays in the queue
task.py        what one element of an array does
client.py      sbatch, squeue, scontrol, scancel, sacct
"""
