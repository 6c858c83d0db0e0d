#!/bin/sh
# The others reach a replica by its container's name, which no file can know before.
set -eu
if [ -n "${ARCUS_LISTEN:-}" ] && [ -z "${ARCUS_ADVERTISE_ADDRESS:-}" ]; then
  export ARCUS_ADVERTISE_ADDRESS="$(hostname):${ARCUS_LISTEN##*:}"
fi
exec deno "$@"
