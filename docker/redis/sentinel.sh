#!/bin/sh
# One Sentinel of three; two must agree before a failover (quorum 2).
set -eu
umask 077
cat >/tmp/sentinel.conf <<CONF
port 26379
sentinel resolve-hostnames yes
sentinel monitor mymaster ${MASTER_HOST:-redis} 6379 2
sentinel auth-pass mymaster $(cat /run/flotilla/redis_password)
sentinel down-after-milliseconds mymaster 3000
sentinel failover-timeout mymaster 10000
sentinel parallel-syncs mymaster 1
CONF
exec valkey-server /tmp/sentinel.conf --sentinel --protected-mode no
