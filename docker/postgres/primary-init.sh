#!/bin/sh
# Runs once, when the primary's data directory is made: the role that replicas connect as.
set -eu
password=$(cat /run/flotilla/replication_password)
psql -v ON_ERROR_STOP=1 -v password="$password" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE replicator WITH REPLICATION LOGIN PASSWORD :'password';
-- @flotilla/db-router asks every server where it stands; pg_monitor lets the app's own role see it.
GRANT pg_monitor TO app;
SQL
echo 'host replication replicator all scram-sha-256' >>"$PGDATA/pg_hba.conf"
