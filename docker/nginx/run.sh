#!/bin/sh
# Runs nginx over the instances of the app, and keeps its list of them in step with the fleet. nginx resolves
# names once, when it starts, and (but for nginx Plus) never asks an instance how it is: a fleet that scales
# would be balanced over addresses that are gone, and one that drains would get requests to the last.
#   APP_NAME       the name that resolves to every instance: `app` (compose), `tasks.app` (Swarm)
#   APP_PORT       their port; 8080
#   SERVERS_FILE   instead of the two above: a file with one host:port a line, read again at each look
#   LISTEN         where to listen: 8080, or address:port
#   TRUSTED_PROXY  the network of a proxy in front, whose X-Forwarded-* is believed
#   READY_PATH     what an instance answers 503 when it must get nothing new; /health/ready
#   CHECK_INTERVAL seconds between two looks; 1
#   NGINX_DIR      the folder to run in, which must be writable; /tmp/nginx
# nginx.conf and app.conf lie beside this script, or in CONF_DIR.
set -eu
: "${APP_NAME:=app}" "${APP_PORT:=8080}" "${SERVERS_FILE:=}" "${LISTEN:=8080}" "${TRUSTED_PROXY:=}"
: "${READY_PATH:=/health/ready}" "${CHECK_INTERVAL:=1}" "${NGINX_DIR:=/tmp/nginx}"
: "${CONF_DIR:=$(cd "$(dirname "$0")" && pwd)}"

mkdir -p "$NGINX_DIR"
cd "$NGINX_DIR"
for file in nginx.conf app.conf; do ln -sf "$CONF_DIR/$file" "$file"; done

# Whether this nginx is at least 1.27.4 and so can keep a client's connection through a reload.
keeps_clients() {
  nginx -v 2>&1 | awk -F '[/. ]' '{ exit $4 * 1000000 + $5 * 1000 + $6 < 1027004 }'
}

{
  echo "listen $LISTEN;"
  [ -z "$TRUSTED_PROXY" ] || echo "set_real_ip_from $TRUSTED_PROXY;"
  # Else a reload closes each connection that waits for its next request, also where that is on its way. With
  # this the old worker answers it and says `Connection: close`.
  if keeps_clients; then echo "keepalive_min_timeout 30s;"; fi
} >listen.conf
echo "${TRUSTED_PROXY:+$TRUSTED_PROXY 1;}" >trusted.conf

# every instance there is, as sorted host:port lines
instances() {
  if [ -n "$SERVERS_FILE" ]; then
    cat "$SERVERS_FILE"
  else
    getent ahosts "$APP_NAME" 2>/dev/null | awk -v port="$APP_PORT" '$1 !~ /:/ { print $1 ":" port }'
  fi | sort -u
}

# 503 or no answer within a second: not ready. Any other answer is one, also that of an app without this path.
ready() {
  case $(curl -s -o /dev/null -m 1 -w '%{http_code}' "http://$1$READY_PATH") in 000 | 503) return 1 ;; esac
}

# those of the instances ($1) that are ready, asked all at the same time
ready_instances() {
  for server in $1; do
    (if ready "$server"; then echo "$server"; fi) &
  done | sort
}

# The instances to balance over. Where none is ready all of them are: that is not the balancer's to decide.
chosen() {
  all=$(instances)
  some=$all
  if command -v curl >/dev/null; then some=$(ready_instances "$all"); fi
  echo ${some:-$all}
}

write() {
  # max_fails=0: nginx would also count a route that hangs or resets, and take every instance out for it. Who gets
  # requests is decided by readiness alone; one that refuses connections costs a request one attempt (app.conf).
  for server in ${1:-127.0.0.1:9}; do echo "server $server max_fails=0;"; done >servers.new
  mv servers.new servers.conf
}

command -v curl >/dev/null || echo 'run.sh: there is no curl in this image: an instance that is not ready gets requests all the same' >&2
current=$(chosen)
[ -n "$current" ] || echo "run.sh: ${SERVERS_FILE:-$APP_NAME} has no address yet; every request is answered 502 until it has" >&2
write "$current"

# nginx takes this shell's place below, and with it the process number $$.
(
  missed=
  while sleep "$CHECK_INTERVAL" && kill -0 $$ 2>/dev/null; do
    next=$(chosen)
    if [ -z "$next" ]; then
      # A fault of DNS, or every instance has ended: keep what may work again.
      [ -n "$missed" ] || echo "run.sh: ${SERVERS_FILE:-$APP_NAME} has no address any more; still balancing over $current" >&2
      missed=1
      continue
    fi
    missed=
    if [ "$next" = "$current" ] || [ ! -s nginx.pid ]; then continue; fi
    write "$next"
    kill -HUP $$
    echo "run.sh: balancing over $next" >&2
    current=$next
  done
) &

exec nginx -e stderr -p "$NGINX_DIR/" -c "$NGINX_DIR/nginx.conf" -g 'daemon off;'
