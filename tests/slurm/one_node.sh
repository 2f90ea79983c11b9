#!/bin/bash
# Starts a real Slurm cluster of this machine only, as root and without systemd (Debian: slurm-wlm, munge).
# Usage: one_node.sh STATE_DIR CONTROLLER_PORT NODE_PORT
# All its files are in STATE_DIR, and its ports are its own: another Slurm on this machine is not touched. Programs find it
# by SLURM_CONF=STATE_DIR/slurm.conf, and by STATE_DIR/bin as the first folder on PATH. Prints errors only. The process ids
# of the daemons are in STATE_DIR/*.pid.
set -euo pipefail
state=$1 controller_port=$2 node_port=$3
host=$(hostname -s)
mkdir -p "$state"/{ctld,d,log}
getent hosts "$host" >/dev/null || echo "127.0.0.1 $host" >>/etc/hosts

if ! pgrep -x munged >/dev/null; then
    mkdir -p /run/munge /var/log/munge /var/lib/munge /etc/munge
    [ -s /etc/munge/munge.key ] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 status=none
    chown -R munge:munge /etc/munge /run/munge /var/log/munge /var/lib/munge
    chmod 0700 /etc/munge /var/log/munge /var/lib/munge
    chmod 0755 /run/munge
    chmod 0400 /etc/munge/munge.key
    runuser -u munge -- /usr/sbin/munged
    cp /run/munge/munged.pid "$state/munged.pid"
fi

memory_mb=$(awk '/MemTotal/ {print int($2 / 1024) - 1024}' /proc/meminfo)
cat >"$state/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$controller_port
SlurmdPort=$node_port
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/d
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/log/slurmctld.log
SlurmdLogFile=$state/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
ReturnToService=2
KillWait=5
MinJobAge=3600
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(getconf _NPROCESSORS_ONLN) RealMemory=$memory_mb State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=01:00:00 State=UP
CONF
export SLURM_CONF=$state/slurm.conf
# Usually slurm.conf is where every program looks. This one is found by a variable, which Snakemake removes from its jobs.
mkdir -p "$state/bin"
printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$SLURM_CONF" "$(command -v srun)" >"$state/bin/srun"
chmod +x "$state/bin/srun"
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"

for _ in $(seq 60); do
    sinfo --noheader --format %t 2>/dev/null | grep -qE 'idle|mix|alloc' && exit 0
    sleep 0.5
done
echo "the node did not come up; see $state/log" >&2
exit 1
