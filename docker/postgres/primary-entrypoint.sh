#!/bin/sh
# The official image's entrypoint, with the superuser's password from a file. It is needed only for the first
# start, which makes the data directory; after that it is in no process's environment.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  POSTGRES_PASSWORD=$(cat "${SECRETS_DIR:-/run/flotilla}/postgres_password")
  export POSTGRES_PASSWORD
fi
exec docker-entrypoint.sh "$@"
