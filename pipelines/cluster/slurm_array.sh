#!/bin/bash
# ImageNet-1K-SD on Slurm: each task of the array is one node, with one worker per GPU. Tasks may start, stop and die at
# any time; they share the work through files in OUT. Load your environment first (sbatch passes it on), then:
#
#   OUT=/shared/imagenet-1k-sd sbatch --array=0-7 pipelines/cluster/slurm_array.sh
#
# Options after the script's name go to `imagenet-sd generate`, such as --multiple 10.
#SBATCH --job-name=imagenet-sd
#SBATCH --array=0-7
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --mem=128G
#SBATCH --time=04:00:00
#SBATCH --output=imagenet-sd-%A_%a.log
#SBATCH --open-mode=append
# After a node failure or a preemption Slurm queues the task again by itself:
#SBATCH --requeue
# SIGTERM to this script, 2 minutes before the time limit; a worker needs one batch to hand its shard back:
#SBATCH --signal=B:TERM@120

set -u
: "${OUT:?set OUT to a folder that all nodes see under this path}"

# Pass the first SIGTERM on, and that one alone: at a second, `generate` would end at once, with another exit code.
trap 'trap "" TERM; kill -TERM "$!"' TERM
imagenet-sd generate --classes imagenet-1k --prompt c_dc --scale 2 --out "$OUT" "$@" &
child=$!

# A trapped signal ends `wait` early, so wait until the child is gone; bash keeps its exit code for the last `wait`.
while kill -0 "$child" 2>/dev/null; do wait "$child"; done
wait "$child"
code=$?

# 143: stopped with work left. Only a running task is queued again here: one that was cancelled shall stay cancelled, and
# one that was preempted is queued already. The name JOB_TASK means this task alone; $SLURM_JOB_ID can mean the array.
if [[ $code -eq 143 ]]; then
    task=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}
    state=$(squeue --noheader --format=%T --jobs="$task") || state=RUNNING
    [[ $state == RUNNING ]] && scontrol requeue "$task"
fi
exit "$code"
