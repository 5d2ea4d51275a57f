#!/bin/bash
# A Slurm of one node on this machine, from Debian's packages slurm-wlm and munge (root; no systemd, no cgroups, loopback only):
#   bash tests/slurm/up.sh DIR     starts it and prints the line that makes the commands of Slurm see it
#   bash tests/slurm/down.sh DIR   stops it
# Partitions: low, whose jobs are preempted by those of high and queued again. KD_SLURM_CPUS: cores that it has (default: 2);
# KD_SLURM_PORT: the first of its ports (default: 16817);
# KD_SLURM_NODES=n1,n2: so many nodes, all of them this machine, by names that it must know (/etc/hosts).
set -e
S=$(mkdir -p "$1" && cd "$1" && pwd)
H=$(hostname -s)
NODES=${KD_SLURM_NODES:-$H}
PORT=${KD_SLURM_PORT:-16817}
mkdir -p "$S"/state "$S"/log
cat > "$S/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$H(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$S/state
SlurmdSpoolDir=$S/spool-%n
SlurmctldPidFile=$S/slurmctld.pid
SlurmdPidFile=$S/slurmd-%n.pid
SlurmctldLogFile=$S/log/slurmctld.log
SlurmdLogFile=$S/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
SlurmctldParameters=preempt_send_user_signal
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=10
KillWait=5
MinJobAge=300
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
$(port=$((PORT + 1)); for node in ${NODES//,/ }; do
  echo "NodeName=$node NodeHostname=$H NodeAddr=127.0.0.1 Port=$port CPUs=${KD_SLURM_CPUS:-2} RealMemory=4000 State=UNKNOWN"
  port=$((port + 1))
done)
PartitionName=low Nodes=$NODES Default=YES MaxTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=$NODES MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
CONF
if ! munge -n > "$S/log/munge.txt" 2>&1; then
  install -d -o munge -g munge -m 755 /run/munge
  runuser -u munge -- munged
fi
export SLURM_CONF=$S/slurm.conf
slurmctld
for node in ${NODES//,/ }; do slurmd -N "$node"; done
for _ in $(seq 100); do
  [ "$(sinfo -h -p low -o %T 2> /dev/null)" = idle ] && break
  sleep 0.2
done
kill -0 "$(cat "$S/slurmctld.pid" 2> /dev/null)" 2> /dev/null || {
  echo "no controller: $(grep -h "fatal" "$S/log/slurmctld.log" | tail -n 1); another KD_SLURM_PORT may help" >&2
  exit 1
}
sinfo >&2
echo "export SLURM_CONF=$SLURM_CONF"
