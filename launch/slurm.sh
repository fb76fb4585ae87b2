#!/usr/bin/env bash
# One training stage over several hosts under Slurm:
#
#   sbatch --nodes 2 launch/slurm.sh pipeline.pretrain recipes/llm/llama_1b.yaml [section.key=value ...]
#
# Five minutes before the time limit Slurm sends USR1: the run saves a checkpoint and ends, and Slurm queues it again.
#SBATCH --job-name=headwater
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

export MAIN_HOST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MAIN_PORT=$((20000 + SLURM_JOB_ID % 20000))
export PROCESSES=$((SLURM_NNODES * ${SLURM_GPUS_ON_NODE:-2}))
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=300
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGUSR1
launch_file=${LAUNCH_FILE:-launch/multi_host.yaml}

code=0
srun --kill-on-bad-exit=0 bash -c '
    exec accelerate launch --config_file "$0" --num_machines "$SLURM_NNODES" --num_processes "$PROCESSES" \
        --machine_rank "$SLURM_NODEID" --main_process_ip "$MAIN_HOST" --main_process_port "$MAIN_PORT" -m "$@"
' "$launch_file" "$@" || code=$?

# A run that was asked to stop has saved and left no artifact: queue it again, and the same command resumes.
if [ "$code" -ne 0 ] && compgen -G "${RUN_DIR:-runs/*}/logs/*.error" > /dev/null && grep -q '^3$' ${RUN_DIR:-runs/*}/logs/*.error; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
