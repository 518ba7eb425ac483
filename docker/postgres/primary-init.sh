#!/bin/sh
# Runs once, when the primary's data directory is made: the app's role, which owns its database and is no
# superuser, and the role that replicas connect as where there is a password for it.
set -eu
secrets=${SECRETS_DIR:-/run/flotilla}
export secrets
# Read by psql itself: an argument could be read by everybody.
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\set password `cat "$secrets/app_password"`
CREATE ROLE app LOGIN PASSWORD :'password';
ALTER DATABASE :"DBNAME" OWNER TO app;
-- @flotilla/db-router sees a replica's timeline as soon as it receives it.
GRANT pg_read_all_stats TO app;
SQL
if [ -s "$secrets/replication_password" ]; then
  psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\set password `cat "$secrets/replication_password"`
CREATE ROLE replicator WITH REPLICATION LOGIN PASSWORD :'password';
SQL
  echo 'host replication replicator all scram-sha-256' >>"$PGDATA/pg_hba.conf"
fi
