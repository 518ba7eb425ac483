#!/bin/sh
# Turns the official image into a streaming replica: copies the primary once, then follows it.
set -eu
: "${PRIMARY_HOST:=postgres-primary}" "${PRIMARY_PORT:=5432}"
export PGPASSFILE=/tmp/.pgpass
(umask 077 && echo "*:*:*:replicator:$(cat /run/flotilla/replication_password)" >"$PGPASSFILE")
if [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA"
  chown -R postgres "$PGDATA" "$PGPASSFILE"
  # Whichever of the three the image carries.
  for switch in gosu su-exec; do
    if command -v $switch >/dev/null; then exec $switch postgres "$0" "$@"; fi
  done
  exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # A copy that was cut short is no server: start it again from nothing.
  find "$PGDATA" -mindepth 1 -delete
  slot=$(echo "replica_${HOSTNAME:-1}" | tr -c 'a-z0-9_\n' '_')
  tries=0
  until pg_basebackup --host "$PRIMARY_HOST" --port "$PRIMARY_PORT" --username replicator --no-password \
    --pgdata "$PGDATA" --write-recovery-conf --wal-method stream --checkpoint fast --create-slot --slot "$slot"; do
    tries=$((tries + 1))
    if [ "$tries" -ge 20 ]; then
      echo "replica-entrypoint: no copy of $PRIMARY_HOST in $tries tries, see above; check replication_password" >&2
      exit 1
    fi
    echo "replica-entrypoint: no copy of $PRIMARY_HOST yet, trying again" >&2
    find "$PGDATA" -mindepth 1 -delete
    psql "host=$PRIMARY_HOST port=$PRIMARY_PORT user=replicator dbname=postgres replication=true" --no-password \
      --command "DROP_REPLICATION_SLOT $slot" >/dev/null 2>&1 || true
    sleep 1
  done
  chmod 700 "$PGDATA"
fi
exec postgres -c listen_addresses='*' "$@"
