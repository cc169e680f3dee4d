#!/usr/bin/env bash
# Train on WMT14 English-German with SLURM, on two machines with 8 GPUs each. From the root of the repository:
#
#   scripts/prepare.sh wmt14.en-de    (on a file system that all machines share)
#   sbatch examples/wmt14.en-de/slurm.sh
#   scripts/evaluate.sh wmt14.en-de
#
# Not tested: this script has not been run on a cluster.
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
