#!/usr/bin/env bash
# WMT14 English-German on two machines of 8 GPUs under SLURM: sbatch examples/wmt14.en-de/slurm.sh, from the repository.
# Before it: scripts/prepare.sh wmt14.en-de, in a folder that all machines share. After it: scripts/evaluate.sh
# wmt14.en-de. Not run: there was no cluster.
#SBATCH --job-name=resmlp
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --requeue
#SBATCH --output=slurm-%j.log
set -euo pipefail
export PATH=$PWD/.venv/bin:$PATH

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --cpus-per-task "$SLURM_CPUS_PER_TASK" torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:29500" \
    --no-python scripts/train.sh wmt14.en-de resmlp_wmt_en_de
