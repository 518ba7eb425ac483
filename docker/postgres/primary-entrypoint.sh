#!/bin/sh
# The official image's entrypoint, with the password from a file.
set -eu
POSTGRES_PASSWORD=$(cat "${SECRETS_DIR:-/run/flotilla}/postgres_password")
export POSTGRES_PASSWORD
exec docker-entrypoint.sh "$@"
