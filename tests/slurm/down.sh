#!/bin/bash
# Stops the Slurm that up.sh has started in DIR: bash tests/slurm/down.sh DIR
S=$(cd "$1" && pwd)
export SLURM_CONF=$S/slurm.conf
alive() { [ -f "$1" ] && kill -0 "$(cat "$1")" 2> /dev/null; }
alive "$S/slurmctld.pid" && scancel --user=root 2> /dev/null
for file in "$S"/slurmd-*.pid "$S/slurmctld.pid"; do  # nodes first, which tell the controller
  alive "$file" || continue
  number=$(cat "$file")
  kill "$number"
  for _ in $(seq 50); do kill -0 "$number" 2> /dev/null || break; sleep 0.1; done
  kill -9 "$number" 2> /dev/null
done
exit 0
