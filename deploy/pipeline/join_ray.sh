#!/bin/sh
# Run a command, such as a run of Dagster, on a host that belongs to a Ray network.
#
# A step that gives its shards to Ray needs a Ray node on its own host. Where RAY_HEAD names the head
# of a network (host:port), this starts one without processors, so that no shard is sent to it, and
# then becomes the command. Without RAY_HEAD it only becomes the command. In a container the node ends
# with the command; elsewhere it stays until somebody ends it.
set -eu
if [ -n "${RAY_HEAD:-}" ]; then
  if [ "${RAY_AUTH_MODE:-}" != token ]; then
    echo "join_ray.sh: RAY_HEAD=$RAY_HEAD is set, but RAY_AUTH_MODE is not 'token'; without a token anyone who reaches a port of Ray can run code here" >&2
    exit 2
  fi
  ray start --address "$RAY_HEAD" --num-cpus 0 --num-gpus 0 --object-store-memory 78643200 \
    --disable-usage-stats >&2
  # What TSFM_EXECUTION__ADDRESS=auto means to Ray, whatever other networks it finds on the host.
  export RAY_ADDRESS="$RAY_HEAD"
fi
exec "$@"
