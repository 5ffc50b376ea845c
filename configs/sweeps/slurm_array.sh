#!/bin/bash
# sbatch configs/sweeps/slurm_array.sh
#
# Four workers of one sweep, each on a GPU of its own. They find each other through the storage: a database server, since SQLite
# on a network disk may lose what two machines write at once. The folder logs/ must be on a disk that all machines share.
#SBATCH --job-name=sweep
#SBATCH --array=0-3
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
#SBATCH --output=sweep-%A_%a.txt
set -euo pipefail

: "${SWEEP_STORAGE:?set it to the URL of a database, such as postgresql+psycopg://user:password@host/sweep}"
source .venv/bin/activate

# `exec`, so that the signal a minute before the time limit reaches the sweep, which gives its trial back.
exec python cli.py sweep --config configs/csv.yaml --space configs/sweeps/lr_pooling.yaml \
  --sweep.trials 40 --sweep.storage "$SWEEP_STORAGE"
