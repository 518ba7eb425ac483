#!/bin/sh
# Joins six nodes into a Cluster of three masters with a replica each, once.
set -eu
REDISCLI_AUTH=$(cat /run/flotilla/redis_password)
export REDISCLI_AUTH
nodes=''
for name in redis redis-2 redis-3 redis-4 redis-5 redis-6; do
  # CLUSTER MEET takes addresses, not names.
  nodes="$nodes $(getent hosts "$name" | awk '{ print $1; exit }'):6379"
done
if ! valkey-cli -h redis cluster info | grep -q cluster_state:ok; then
  valkey-cli --cluster create $nodes --cluster-replicas 1 --cluster-yes
fi
tries=0
until valkey-cli -h redis cluster info | grep -q cluster_state:ok; do
  tries=$((tries + 1))
  if [ "$tries" -ge 60 ]; then
    echo 'create-cluster: no whole Cluster within 30 s; the last answer was' >&2
    valkey-cli -h redis cluster info >&2
    exit 1
  fi
  sleep 0.5
done
