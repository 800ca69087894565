#!/usr/bin/env bash
# A machine that trains: a node of the Ray cluster and, beside it, the supervisor whose runs use that node. When one
# ends, both end, and whoever started this starts it again. Arguments are passed on to `ray start`.
set -euo pipefail

asked=
trap 'asked=1' TERM INT

# Ray's objects lie in shared memory: all of it but a tenth, where Ray's own guess might be more than there is.
shared=$(df --output=avail --block-size=1 /dev/shm | tail -n 1)
ray start --address="$CHAINRULE_RAY_ADDRESS" --block --object-store-memory=$((shared * 9 / 10)) \
    --include-log-monitor=false "$@" &
node=$!
chainrule work &
supervisor=$!

end() { # the supervisor before the node, so that it gives its jobs back while its runs can still stop
    kill -TERM "$1" 2>/dev/null || true
    while kill -0 "$1" 2>/dev/null; do wait "$1" || true; done
}

wait -n || true # until either ends, or a signal comes
end "$supervisor"
end "$node"
[[ -n $asked ]]
