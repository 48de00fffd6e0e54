#!/usr/bin/env bash
# Unpacks the archive of `make dist` in an empty folder and runs its demo under an empty environment, without
# a path and, where this may be arranged, without a network. Fails where the demo does not end with 0.
set -euo pipefail
cd "$(dirname "$0")/.."

archives=(dist/luthier-*-linux-x86_64.tar.gz)
archive=${1:-${archives[0]}}
[ -f "$archive" ] || { echo "check-dist: no archive in dist/: make dist" >&2; exit 1; }

folder=$(mktemp -d)
demo_id=
# Interrupted, the server that was started ends first, and its PostgreSQL and trainer with it.
trap '[ -z "$demo_id" ] || { kill "$demo_id" 2>/dev/null && wait "$demo_id"; }; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
# The temporary folder is closed to others, a folder that people unpack into seldom is.
chmod 755 "$folder"
tar -xzf "$archive" -C "$folder" --strip-components=1

demo=(env -i DEMO_EXIT=1 PATH=/nonexistent "$folder/bin/luthier" demo --data "$folder/data")
alone=()
if [ "$(id -u)" = 0 ] && command -v unshare ip >/dev/null && unshare --net true 2>/dev/null; then
    # shellcheck disable=SC2016
    alone=(unshare --net bash -c 'ip link set lo up && exec "$@"' bash)
    echo "check-dist: without a network"
else
    echo "check-dist: the network could not be taken away here"
fi
"${alone[@]}" "${demo[@]}" &
demo_id=$!
code=0
wait "$demo_id" || code=$?
demo_id=
[ "$code" = 0 ] || { echo "check-dist: the demo ended with $code" >&2; exit "$code"; }
echo "check-dist: the archive trains the sample"
