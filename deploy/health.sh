#!/usr/bin/env bash
# Exit with 0 if the app answers on this machine.
set -euo pipefail

host=${ATTRLIB_HOST:-0.0.0.0}
if [ "$host" = 0.0.0.0 ]; then
    host=127.0.0.1
fi
exec python3 - "http://$host:${ATTRLIB_PORT:-8501}/_stcore/health" <<'PYTHON'
import sys
import urllib.request

# A proxy for the internet must not be asked for this machine.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    opener.open(sys.argv[1], timeout=5)
except OSError as error:
    sys.exit(f"{sys.argv[1]}: {error}")
PYTHON
