# What a job of ablora needs around it on your cluster; sourced by every job (slurm/job.sbatch). The interpreter is the one that
# submitted, so a virtual environment on a shared disk needs no line here.

# module load cuda/12.4
# export HF_HOME=/path/on/the/shared/disk/huggingface   # models and data sets, fetched once
# export ABLORA_CACHE=/path/on/the/shared/disk/ablora   # encoded data

export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} HF_DATASETS_OFFLINE=${HF_DATASETS_OFFLINE:-1} # compute nodes have no network, most often
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} # workers set their own share of it
