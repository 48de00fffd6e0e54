#!/usr/bin/env bash
# Unpacks the archive of `make dist` in an empty folder and runs its demo under an empty environment, without
# a path and, where this may be arranged, without a network. Fails where the demo does not end with 0.
set -euo pipefail
cd "$(dirname "$0")/.."

archives=(dist/luthier-*-linux-x86_64.tar.gz)
archive=${1:-${archives[0]}}
[ -f "$archive" ] || { echo "check-dist: no archive in dist/: make dist" >&2; exit 1; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# The temporary folder is closed to others, a folder that people unpack into seldom is.
chmod 755 "$folder"
tar -xzf "$archive" -C "$folder" --strip-components=1

demo=(env -i DEMO_EXIT=1 PATH=/nonexistent "$folder/bin/luthier" demo --data "$folder/data")
if [ "$(id -u)" = 0 ] && command -v unshare ip >/dev/null && unshare --net true 2>/dev/null; then
    echo "check-dist: without a network"
    # shellcheck disable=SC2016
    unshare --net bash -c 'ip link set lo up && exec "$@"' bash "${demo[@]}"
else
    echo "check-dist: the network could not be taken away here"
    "${demo[@]}"
fi
