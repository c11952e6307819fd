#!/usr/bin/env bash
# Start the app for other machines, or run another command with the same settings.
#
# Usage: start.sh [OPTION ...]          options of `attrlib app`
#        start.sh COMMAND [ARGUMENT ...]  for example `start.sh score --model birds_resnet10 --data birds`
#
# Environment (README.md beside this file explains it):
#   ATTRLIB_HOST, ATTRLIB_PORT   address to listen on, by default 0.0.0.0 and 8501
#   ATTRLIB_CACHE                folder of results and downloads, by default /var/cache/attrlib
#   ATTRLIB_DATA_ROOTS           folders that the app may read, separated by colons, by default /data
#   ATTRLIB_STORE_URL            database of results, by default an SQLite file in ATTRLIB_CACHE
#   ATTRLIB_STORE_PASSWORD_FILE  file with the password of a PostgreSQL database
#   ATTRLIB_MAX_UPLOAD           largest upload in MB, by default 20
#   OMP_NUM_THREADS              threads, by default the CPU limit of the container
set -euo pipefail

export ATTRLIB_CACHE=${ATTRLIB_CACHE:-/var/cache/attrlib}
export ATTRLIB_DATA_ROOTS=${ATTRLIB_DATA_ROOTS-/data}
export STREAMLIT_SERVER_HEADLESS=true STREAMLIT_BROWSER_GATHER_USAGE_STATS=false

fail() {
    echo "start.sh: $1" >&2
    exit 1
}

mkdir -p "$ATTRLIB_CACHE" 2>/dev/null || true
if ! probe=$(mktemp -p "$ATTRLIB_CACHE" .probe.XXXXXX 2>/dev/null); then
    fail "user $(id -u) cannot write to ATTRLIB_CACHE=$ATTRLIB_CACHE; change its owner, or name another folder"
fi
rm -f "$probe"

# Libraries keep downloads and fonts in the home folder.
if [ ! -d "${HOME:-}" ] || [ ! -w "$HOME" ]; then
    export HOME=$ATTRLIB_CACHE
fi

if [ -n "${ATTRLIB_STORE_PASSWORD_FILE:-}" ]; then
    [ -r "$ATTRLIB_STORE_PASSWORD_FILE" ] || fail "user $(id -u) cannot read ATTRLIB_STORE_PASSWORD_FILE=$ATTRLIB_STORE_PASSWORD_FILE"
    PGPASSWORD=$(<"$ATTRLIB_STORE_PASSWORD_FILE")
    export PGPASSWORD
fi

# PyTorch counts the cores of the machine, not those that the container may use.
if [ -z "${OMP_NUM_THREADS:-}" ] && read -r quota period 2>/dev/null <"${ATTRLIB_CPU_MAX:-/sys/fs/cgroup/cpu.max}" && [ "$quota" != max ]; then
    export OMP_NUM_THREADS=$(((quota + period - 1) / period))
fi

if [ $# -gt 0 ] && [[ $1 != -* ]]; then
    exec attrlib "$@"
fi
exec attrlib app --host "${ATTRLIB_HOST:-0.0.0.0}" --port "${ATTRLIB_PORT:-8501}" --max-upload "${ATTRLIB_MAX_UPLOAD:-20}" "$@"
