#!/usr/bin/env bash
# Runs the commands of the README as they stand there: the block marked `server` in the background,
# then every block marked `tour`, line by line, each of which must succeed. Only the environment
# differs from a reader's: own ports and an own data directory, so that a running broker and its
# data are not touched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# How long the broker may take to build and to answer.
readonly BUILD_SECONDS_MAX=1500

# The commands inside the ```sh blocks of the README that carry the given mark.
block() {
  awk -v fence="\`\`\`sh $1" '$0 == fence {inside = 1; next} /^```/ {inside = 0} inside' README.md
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Not /tmp by default: it may be in memory, where direct I/O does not work.
mkdir -p target
scratch=$(mktemp -d "${TMPDIR:-$PWD/target}/tour.XXXXXX")
server=
finish() {
  if [ -n "$server" ]; then
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  rm -rf "$scratch"
}
trap finish EXIT

port=$(free_port)
admin_port=$(free_port)
export CATENA_DATA_DIR="$scratch/data"
export CATENA_LISTEN="127.0.0.1:$port"
export CATENA_ADMIN="127.0.0.1:$admin_port"
export CATENA_BROKER="127.0.0.1:$port"

echo "tour: $(block server)"
# `exec`, so that the signal at the end reaches the broker and not a shell around it.
bash -euo pipefail -c "exec $(block server)" >"$scratch/server.log" 2>&1 &
server=$!
waited=0
until answers "$port"; do
  if ! kill -0 "$server" 2>/dev/null || [ "$waited" -ge "$BUILD_SECONDS_MAX" ]; then
    echo "tour: the broker does not answer after $waited s" >&2
    tail -n 50 "$scratch/server.log" >&2
    exit 1
  fi
  sleep 1
  waited=$((waited + 1))
done

block tour >"$scratch/tour.sh"
# `pipefail` is off as in a reader's shell: `consume | head` ends in a broken pipe by design.
if ! bash -eux "$scratch/tour.sh"; then
  echo "tour: the last command above failed; the broker's log:" >&2
  tail -n 50 "$scratch/server.log" >&2
  exit 1
fi

kill -TERM "$server"
if ! wait "$server"; then
  echo "tour: the broker did not stop cleanly" >&2
  tail -n 50 "$scratch/server.log" >&2
  exit 1
fi
server=
echo "tour: done"
