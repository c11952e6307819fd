#!/usr/bin/env bash
# Install attrlib with the app and the PostgreSQL driver into a new virtual environment.
#
# Usage: install.sh SOURCE [FOLDER]
#   SOURCE  a wheel, the folder of a checkout, or a version such as 0.2.0
#   FOLDER  the virtual environment, by default /opt/attrlib
#
# Environment:
#   ATTRLIB_DEVICE       cpu (default) or cuda
#   ATTRLIB_TORCH_INDEX  index of PyTorch's wheels, by default that of the CPU builds for cpu and none for cuda, as the wheels on PyPI
#                        have CUDA; empty for none
#   ATTRLIB_PINS         requirements file whose exact versions of torch and torchvision are installed, by default none
#   ATTRLIB_EXTRAS       extras, by default app,postgres
#   PYTHON               the interpreter, by default python3
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2
    exit 2
fi
source=$1
folder=${2:-/opt/attrlib}
extras=${ATTRLIB_EXTRAS-app,postgres}
device=${ATTRLIB_DEVICE:-cpu}

case $device in
cpu) index=${ATTRLIB_TORCH_INDEX-https://download.pytorch.org/whl/cpu} ;;
cuda) index=${ATTRLIB_TORCH_INDEX-} ;;
*)
    echo "ATTRLIB_DEVICE=$device is not valid; use cpu or cuda" >&2
    exit 2
    ;;
esac

if [ -e "$source" ]; then
    requirement="$(realpath "$source")${extras:+[$extras]}"
elif [[ $source =~ ^[0-9]+(\.[0-9]+)+ ]]; then
    requirement="attrlib${extras:+[$extras]}==$source"
else
    echo "$source is neither a file, a folder nor a version" >&2
    exit 2
fi

options=(--disable-pip-version-check)
if [ -n "$index" ]; then
    options+=(--extra-index-url "$index")
fi
pins=$(mktemp)
trap 'rm -f "$pins"' EXIT
if [ -n "${ATTRLIB_PINS:-}" ]; then
    grep -E '^(torch|torchvision)==' "$ATTRLIB_PINS" >"$pins"
    options+=(--constraint "$pins")
fi

"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install "${options[@]}" "$requirement"
"$folder/bin/python" -m pip check
"$folder/bin/python" - <<'PYTHON'
import attrlib
import torch

print(f"attrlib {attrlib.__version__}, torch {torch.__version__}, CUDA {torch.version.cuda or 'not built in'}")
PYTHON
