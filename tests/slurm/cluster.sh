#!/usr/bin/env bash
# A real SLURM cluster on this one machine, for the tests of harness/slurm and the scale benchmark.
#   cluster.sh up [NODES]                install from Debian's or Ubuntu's packages if missing, configure, start
#   cluster.sh fail NODE                 a power loss: slurmd, steps and processes die; the node's jobs are requeued
#   cluster.sh mend NODE                 start the node again
#   cluster.sh controller stop|start     slurmctld alone; the queue is kept
#   cluster.sh controller lose           slurmctld starts anew with an empty queue, its jobs are forgotten
#   cluster.sh accounting off|on         without and with slurmdbd; the queue is kept
#   cluster.sh limit COUNT|off           at most so many jobs of one user in the queue (MaxSubmitJobs); the queue is kept
#   cluster.sh down                      stop what it started
# Environment: NODES (what is configured, else 3), CPUS per node (all cores; nodes are over-subscribed), MAX_ARRAY_SIZE (1001), ACCOUNTING (on).
# Needs root and a machine that is no SLURM host otherwise: it writes /etc/slurm and /etc/hosts.
# Nodes n1..nN listen on loopback, each with a pretend GPU (gres gpu:1). Partitions: debug (default, can be preempted)
# and urgent (preempts debug). Logs: /var/log/slurm. SLURM holds a requeued job back for two minutes:
# `scontrol update JobId=ID StartTime=now` lets it go at once.
set -Eeuo pipefail
trap 'echo "cluster.sh: line $LINENO: $BASH_COMMAND: ended with status $?" >&2' ERR   # never an end without a word

configured_nodes() {
  [ ! -f /etc/slurm/slurm.conf ] || sed -n 's/^PartitionName=debug Nodes=n\[1-\([0-9]*\)\].*/\1/p' /etc/slurm/slurm.conf
}
NODES=${NODES:-$(configured_nodes)} NODES=${NODES:-3} CPUS=${CPUS:-$(nproc)} MAX_ARRAY_SIZE=${MAX_ARRAY_SIZE:-1001} ACCOUNTING=${ACCOUNTING:-on}
CLUSTER=harness-test

die() { echo "cluster.sh: $*" >&2; exit 1; }

until_true() { # SECONDS COMMAND...: wait until the command succeeds
  local tries=$(($1 * 10)); shift
  for ((; tries > 0; tries--)); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  die "gave up waiting for: $*"
}

is_running() { # PIDFILE NAME
  [ -f "$1" ] && [ "$(cat "/proc/$(cat "$1")/comm" 2>/dev/null)" = "$2" ]
}

stop() { # PIDFILE NAME [SIGNAL]: end the process that the file names, if it is still NAME
  if is_running "$1" "$2"; then
    local pid; pid=$(cat "$1")
    kill "-${3:-TERM}" "$pid"
    until_true 20 test ! -d "/proc/$pid"
  fi
}

install_packages() {
  local program
  for program in slurmctld slurmd slurmdbd munged mariadbd ss; do
    command -v "$program" >/dev/null && continue
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm slurmdbd munge mariadb-server iproute2 >/dev/null
    return
  done
}

start_munge() {
  install -d -o munge -g munge -m 755 /run/munge
  [ -s /etc/munge/munge.key ] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 status=none
  chown munge:munge /etc/munge/munge.key; chmod 400 /etc/munge/munge.key
  munge -n >/dev/null 2>&1 || su -s /bin/sh munge -c "$(command -v munged)"
  until_true 10 munge -n
}

start_database() { # where slurmdbd keeps its accounts
  install -d -o mysql -g mysql /run/mysqld
  mysqladmin ping >/dev/null 2>&1 || start-stop-daemon --start --oknodo --background --exec "$(command -v mariadbd)" \
    -- --user=mysql --skip-networking --innodb-buffer-pool-size=64M
  until_true 60 mysqladmin ping
  mysql -e "CREATE DATABASE IF NOT EXISTS slurm_acct_db;
    CREATE USER IF NOT EXISTS 'slurm'@'localhost' IDENTIFIED BY 'slurm';
    GRANT ALL ON slurm_acct_db.* TO 'slurm'@'localhost';"
}

start_slurmdbd() {
  start_database
  cat >/etc/slurm/slurmdbd.conf <<END
AuthType=auth/munge
DbdHost=localhost
DbdAddr=127.0.0.1
SlurmUser=root
PidFile=/run/slurmdbd.pid
LogFile=/var/log/slurm/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
END
  chmod 600 /etc/slurm/slurmdbd.conf
  is_running /run/slurmdbd.pid slurmdbd || slurmdbd
  until_true 30 sacctmgr -n show cluster
}

configure() {
  local host mem
  host=$(hostname -s)
  mem=$((($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 - 1024) / NODES))
  echo "NodeName=n[1-$NODES] Name=gpu File=/dev/zero" >/etc/slurm/gres.conf
  cat >/etc/slurm/slurm.conf <<END
ClusterName=$CLUSTER
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd-%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd-%n.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd-%n.log
SlurmdParameters=config_overrides
SlurmdTimeout=10
MessageTimeout=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
GresTypes=gpu
MpiDefault=none
ReturnToService=2
KillWait=5
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
AccountingStorageHost=127.0.0.1
MaxArraySize=$MAX_ARRAY_SIZE
MaxJobCount=20000
NodeName=n[1-$NODES] NodeHostname=$host NodeAddr=127.0.0.1 Port=[17001-$((17000 + NODES))] CPUs=$CPUS RealMemory=$mem Gres=gpu:1 State=UNKNOWN
PartitionName=debug Nodes=n[1-$NODES] Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=n[1-$NODES] MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
END
}

start_controller() {
  is_running /run/slurmctld.pid slurmctld || slurmctld
  until_true 30 sh -c 'scontrol ping | grep -q "is UP"'
}

usable() { # COUNT [NODE]: whether so many nodes take jobs
  [ "$(sinfo --noheader --Node --partition debug ${2:+--nodes "$2"} --format %T | grep -cE '^(idle|mixed|allocated)$')" -eq "$1" ]
}

start_nodes() {
  local i
  for i in $(seq "$NODES"); do
    install -d "/var/spool/slurmd-n$i"
    grep -qE "\sn$i(\s|\$)" /etc/hosts || echo "127.0.0.1 n$i" >>/etc/hosts   # ranks on several nodes find each other
    is_running "/run/slurmd-n$i.pid" slurmd || slurmd -N "n$i"
  done
  until_true 30 usable "$NODES"
}

kill_node_processes() { # NODE: what guards its jobs first, so that nobody is left to report, then the jobs themselves
  local p guards
  guards=$(ss -xlpH | grep -F " /var/spool/slurmd-$1/" | grep -o 'pid=[0-9]*' | cut -d= -f2 || true)
  # shellcheck disable=SC2086
  [ -z "$guards" ] || kill -9 $guards || true
  for p in /proc/[0-9]*; do
    if { tr '\0' '\n' <"$p/environ" | grep -qx "SLURMD_NODENAME=$1"; } 2>/dev/null; then kill -9 "${p#/proc/}" || true; fi
  done
}

up() {
  [ "$(id -u)" = 0 ] || die "needs root"
  if [ -f /etc/slurm/slurm.conf ] && ! grep -qE "^ClusterName=($CLUSTER|loopback)\$" /etc/slurm/slurm.conf; then
    die "this machine belongs to another SLURM cluster (/etc/slurm/slurm.conf)"
  fi
  install_packages
  down
  rm -rf /var/spool/slurmctld   # an empty queue every time
  install -d /etc/slurm /var/spool/slurmctld /var/log/slurm
  start_munge
  configure
  accounting "$ACCOUNTING"
  sinfo
}

down() {
  local f
  for f in /run/slurmd-n*.pid; do [ -f "$f" ] && stop "$f" slurmd; done
  stop /run/slurmctld.pid slurmctld
  stop /run/slurmdbd.pid slurmdbd
}

fail() { # NODE: as if it lost power: its slurmd, its job steps and all that runs in them are gone at once
  stop "/run/slurmd-$1.pid" slurmd KILL
  kill_node_processes "$1"
  scontrol update NodeName="$1" State=DOWN Reason="power lost"   # what the controller finds out by itself after a time-out
}

mend() { # NODE
  is_running "/run/slurmd-$1.pid" slurmd || slurmd -N "$1"
  until_true 20 resumed "$1"
}

resumed() { # NODE
  usable 1 "$1" || { scontrol update NodeName="$1" State=RESUME; usable 1 "$1"; }
}

controller() { # stop|start|lose
  case "$1" in
  stop) stop /run/slurmctld.pid slurmctld ;;
  start) start_controller ;;
  lose) stop /run/slurmctld.pid slurmctld; rm -rf /var/spool/slurmctld/*; start_controller; until_true 30 usable "$NODES" ;;
  *) die "controller stop|start|lose" ;;
  esac
}

accounting() { # off|on: (re)starts the controller with it
  local storage=slurmdbd
  [ "$1" = on ] || storage=none
  stop /run/slurmctld.pid slurmctld
  sed -i "s|^AccountingStorageType=.*|AccountingStorageType=accounting_storage/$storage|" /etc/slurm/slurm.conf
  if [ "$1" = on ]; then start_slurmdbd; else stop /run/slurmdbd.pid slurmdbd; fi
  start_controller
  start_nodes
}

limit() { # COUNT|off
  sed -i '/^AccountingStorageEnforce=/d' /etc/slurm/slurm.conf
  if [ "$1" = off ]; then
    sacctmgr -iQ modify user root set MaxSubmitJobs=-1 >/dev/null || true   # an error where nothing changes
  else
    echo 'AccountingStorageEnforce=limits' >>/etc/slurm/slurm.conf
    sacctmgr -iQ modify user root set MaxSubmitJobs="$1" >/dev/null || true
  fi
  stop /run/slurmctld.pid slurmctld
  start_controller
  start_nodes
}

case "${1:-}" in
up) NODES=${2:-$NODES}; up ;;
down) down ;;
fail | mend) "$1" "${2:?NODE}" ;;
controller | accounting) "$1" "${2:?stop|start or off|on}" ;;
limit) limit "${2:?COUNT|off}" ;;
*) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2 ;;
esac
