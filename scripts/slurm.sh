#!/bin/bash
# A SLURM job that trains on one node, is requeued when its time is up, and goes on where it stopped:
#
#     sbatch scripts/slurm.sh --config configs/quickstart.yaml --config configs/overlays/slurm.yaml
#
# What follows the script's name goes to `fit`. For a second node, set --nodes here and trainer.num_nodes in the overlay.
#SBATCH --job-name=litpool
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --gpus-per-node=2
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.txt

# --signal sends SIGTERM to every task 2 minutes before the limit: `fit` writes last.ckpt and ends with status 143.
# Each job has run folders of its own, so a requeued job finds its checkpoint there. It has another folder if the one before was
# stopped without a checkpoint.
job="job-$SLURM_JOB_ID"
name="$job${SLURM_RESTART_COUNT:+-$SLURM_RESTART_COUNT}"
last=$(find logs \( -path "*/$job/checkpoints/last.ckpt" -o -path "*/$job-*/checkpoints/last.ckpt" \) 2> /dev/null | head -n 1)
if [[ -n "$last" ]]; then
  arguments=(--ckpt_path "$last")
  for ((i = 1; i <= $#; i++)); do  # the modules of your own, which a checkpoint does not name for itself
    if [[ "${!i}" == --trust ]]; then
      next=$((i + 1))
      arguments+=(--trust "${!next}")
    elif [[ "${!i}" == --trust=* ]]; then
      arguments+=("${!i}")
    fi
  done
else
  arguments=("$@" --name "$name")
fi

srun "${PYTHON:-.venv/bin/python}" cli.py fit "${arguments[@]}"
status=$?
if [[ $status -eq 143 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
