#!/usr/bin/env bash
# Train on WMT14 English-German with SLURM, on two machines with 8 GPUs each. From the root of the repository:
#
#   scripts/prepare.sh wmt14.en-de    (on a file system that all machines share)
#   sbatch examples/wmt14.en-de/slurm.sh
#   scripts/evaluate.sh wmt14.en-de
#
# If the time limit ends the job before the training is complete, submit it again: it continues. sbatch's own options
# take precedence, such as --nodes 1 or --time 12:00:00. The number of GPUs can differ from that of the last job.
#
# Not tested on a cluster. The tests run this script with stand-ins for srun, scontrol and torchrun.
#SBATCH --job-name=resmlp
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=slurm-%j.log
set -euo pipefail
export PATH=$PWD/.venv/bin:$PATH

# Not with head, which would end scontrol, and with it this script.
read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# Two jobs on the same machine must not use the same port.
port=$((20000 + SLURM_JOB_ID % 10000))
# Some clusters set the first, others only the second, as in "8" or "a100:8".
gpus=${SLURM_GPUS_ON_NODE:-${SLURM_GPUS_PER_NODE:-8}}
srun --nodes "$SLURM_NNODES" --ntasks "$SLURM_NNODES" --ntasks-per-node 1 \
    --cpus-per-task "${SLURM_CPUS_PER_TASK:-1}" torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "${gpus##*:}" \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:$port" \
    --no-python scripts/train.sh wmt14.en-de resmlp_wmt_en_de
