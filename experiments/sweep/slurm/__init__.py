"""A sweep as arrays of Slurm jobs: submit, and return. Slurm is the engine, the shared folder the memory.

settings.py    the keys of hydra/launcher=slurm, and the resources of a run
snapshot.py    the code as it is at submission, from which the jobs run
submission.py  what was submitted, as files under runs/<study>/.slurm/<number>/
submit.py      from specs to arrays in the queue
task.py        what one element of an array does
client.py      sbatch, squeue, scontrol, scancel, sacct
"""
