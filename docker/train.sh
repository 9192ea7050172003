#!/bin/sh
# Begins a run, or goes on with it where it has begun before, for schedulers that start the same command again and again.
#   sh docker/train.sh RECIPE [key=value ...]
set -eu
folder=$(python -m cli config "$@" | python -c '
import sys, yaml
run = yaml.safe_load(sys.stdin)
print(run.get("output_dir", "runs"), run["name"], sep="/")')
if [ -e "$folder/metrics.jsonl" ]; then
  exec python -m cli train "$@" --resume
fi
exec python -m cli train "$@"
