#!/bin/bash
# Stops the Slurm that up.sh has started in DIR: bash tests/slurm/down.sh DIR
S=$(cd "$1" && pwd)
export SLURM_CONF=$S/slurm.conf
scancel --user=root 2> /dev/null
for file in "$S"/slurmd-*.pid "$S/slurmctld.pid"; do
  [ -f "$file" ] && kill "$(cat "$file")"
done
exit 0
