#!/usr/bin/env bash
# Create the user that runs the app, and the folders of the cache and of the data. Run as root, once.
#
# Environment:
#   ATTRLIB_CACHE  folder of results and downloads, by default /var/cache/attrlib
#   ATTRLIB_DATA   folder of data sets and checkpoints, by default /data
set -euo pipefail

cache=${ATTRLIB_CACHE:-/var/cache/attrlib}
data=${ATTRLIB_DATA:-/data}

# A fixed number, so that files in volumes keep their owner when the image is built again.
getent group attrlib >/dev/null || groupadd --gid 10001 attrlib
getent passwd attrlib >/dev/null || useradd --no-log-init --uid 10001 --gid attrlib --no-create-home --home-dir "$cache" --shell /usr/sbin/nologin attrlib
install -d -o attrlib -g attrlib -m 750 "$cache"
install -d -m 755 "$data"
