#!/bin/bash
# ImageNet-1K-SD on a Ray cluster: one Ray task per shard, on as many nodes as the cluster has at the moment.
#
#   RAY_ADDRESS=http://head:8265 OUT=/shared/imagenet-1k-sd pipelines/cluster/ray_job.sh
#
# Every node, the head too, must see OUT under this path and have imagenet-sd[ray] installed. Further arguments go to
# `imagenet-sd generate`. Ray runs the tasks of a lost node again. A lost head ends the job, but loses no finished shard:
# start the cluster and run this again. The exit code is 0 when every shard is done.
set -eu
: "${RAY_ADDRESS:?set RAY_ADDRESS to the dashboard of the cluster, such as http://head:8265}"
: "${OUT:?set OUT to a folder that all nodes see under this path}"

# The job itself, which runs on the head, takes no GPU and only hands out tasks.
ray job submit \
    --runtime-env "$(dirname "$0")/ray_runtime_env.yaml" \
    -- \
    imagenet-sd generate --engine ray --gpus-per-worker 1 \
    --classes imagenet-1k --prompt c_dc --scale 2 --out "$OUT" "$@"
