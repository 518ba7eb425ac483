#!/bin/sh
# Makes each secret once, at random, in the volume that the services read them from: no password has a
# default, none is in an image or in an environment. To bring your own, put the files there beforehand.
set -eu
umask 022
cd "${SECRETS_DIR:-/secrets}"

# new NAME: a file with 32 random bytes as hex, kept where it exists
new() {
  [ -s "$1" ] || od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$1"
  cat "$1"
}

session=$(new session_secret)
[ ${#session} -ge 32 ] || { echo 'make-secrets: session_secret must have at least 32 characters' >&2; exit 1; }
postgres=$(new postgres_password)
new replication_password >/dev/null
redis=$(new redis_password)

echo "postgres://app:$postgres@pgbouncer:6432/app" >database_url
echo "postgres://app:$postgres@pgbouncer:6432/app_replica" >database_replica_url
echo "${REDIS_URL_TEMPLATE:-redis://:PASSWORD@redis:6379/0}" | sed "s/PASSWORD/$redis/" >redis_url
printf 'requirepass %s\nmasterauth %s\n' "$redis" "$redis" >redis.conf
printf '"app" "%s"\n' "$postgres" >userlist.txt
echo 'make-secrets: ready'
