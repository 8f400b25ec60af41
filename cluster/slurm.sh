#!/bin/bash
# Training under SLURM: sbatch cluster/slurm.sh cifar10 --config recipes/default.yaml
#
# Two minutes before its time is over SLURM sends SIGUSR1 to the tasks. The run saves itself and exits with 75; this script then
# puts the job back into the queue, where the same command continues the run. See docs/clusters.md.
#SBATCH --job-name=capstone
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

project=$1
shift
srun --kill-on-bad-exit=1 python -m "projects.$project.train" --name "$SLURM_JOB_NAME-$SLURM_JOB_ID" --resume allow "$@"
code=$?
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
