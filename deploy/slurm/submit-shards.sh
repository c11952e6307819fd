#!/usr/bin/env bash
# Submit a run as an array of shards, and a job that merges them when all have ended.
#
# Usage: submit-shards.sh COUNT FOLDER [OPTION ...]
#   COUNT   number of shards
#   FOLDER  a new or empty folder that all nodes see, for this run alone
#   OPTION  options of `attrlib score`
#
# TASKS=3,17 submits only these shards, which the merge has named as missing. Options of sbatch are set by its variables, such as
# SBATCH_PARTITION and SBATCH_ACCOUNT.
set -euo pipefail

if [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2
    exit 2
fi
here=$(dirname "$(realpath "$0")")
mkdir -p "$2"

array=$(sbatch --parsable --array="${TASKS:-0-$(($1 - 1))}" "$here/shards.sbatch" "$@")
# Also after tasks that failed: the merge then names their shards.
merge=$(sbatch --parsable --dependency="afterany:${array%%;*}" "$here/merge.sbatch" "$2")
echo "array ${array%%;*}, then merge ${merge%%;*}"
