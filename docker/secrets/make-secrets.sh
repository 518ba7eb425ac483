#!/bin/sh
# Makes each secret once, at random: no password has a default, none is in an image or in an environment. The
# originals stay in a volume that no other service mounts; each service gets, in a volume of its own, what it
# must know and no more. To bring your own, put the originals there beforehand.
#   SECRETS_DIR  the originals; /secrets
#   HANDOUT_DIR  a folder for each service; /handout
set -eu
umask 077
handout=${HANDOUT_DIR:-/handout}
cd "${SECRETS_DIR:-/secrets}"
chmod 0700 .

refuse() {
  echo "make-secrets: $*" >&2
  exit 1
}

# new NAME: a file with 32 random bytes as hex, kept where it exists
new() {
  [ -s "$1" ] || od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$1"
}

# give SERVICE OWNER MODE FILE...: copies of the files, in the service's folder
give() {
  service=$1 owner=$2 mode=$3
  shift 3
  for file in "$@"; do
    cp "$file" "$handout/$service/$file.new"
    chown "$owner" "$handout/$service/$file.new"
    chmod "$mode" "$handout/$service/$file.new"
    mv "$handout/$service/$file.new" "$handout/$service/$file"
  done
}

new session_secret
session=$(cat session_secret)
[ ${#session} -ge 32 ] || refuse session_secret must have at least 32 characters
for name in postgres_password replication_password app_password redis_password; do
  new $name
  # They become part of URLs and of quoted strings.
  case $(cat $name) in
    *[!A-Za-z0-9._~-]*) refuse "$name may hold letters, digits and . _ ~ - only" ;;
  esac
done
app=$(cat app_password)
redis=$(cat redis_password)

echo "postgres://app:$app@pgbouncer:6432/app" >database_url
echo "postgres://app:$app@pgbouncer:6432/app_replica" >database_replica_url
echo "${REDIS_URL_TEMPLATE:-redis://:PASSWORD@redis:6379/0}" | sed "s/PASSWORD/$redis/" >redis_url
printf 'requirepass %s\nmasterauth %s\n' "$redis" "$redis" >redis.conf
printf '"app" "%s"\n' "$app" >userlist.txt

# Owned by the user that each image runs its program as: node; valkey and redis in the official images; pgbouncer/Dockerfile.
give app 1000:1000 0400 session_secret redis_url database_url database_replica_url
give redis 999:1000 0400 redis_password redis.conf
give pgbouncer 6432:6432 0400 userlist.txt app_password
# The user postgres has another number in each variant of its image, and reads these too.
give postgres 0:0 0444 postgres_password replication_password app_password
give postgres-replica 0:0 0444 replication_password
echo 'make-secrets: ready'
