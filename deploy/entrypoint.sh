#!/bin/sh
# The others reach a replica by its container's name, which no file can know before.
set -eu
: "${ARCUS_ADVERTISE_ADDRESS:=$(hostname):${ARCUS_LISTEN##*:}}"
export ARCUS_ADVERTISE_ADDRESS
exec deno "$@"
