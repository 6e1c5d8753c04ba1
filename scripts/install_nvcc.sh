#!/bin/sh
# Installs NVIDIA's CUDA 13.0 compiler from PyPI into a folder (default: target/cuda) and prints what
# CUDA_HOME must be:  export CUDA_HOME=$(scripts/install_nvcc.sh)
# No driver and no root are needed; it takes about 400 MB.
set -eu
folder=${1:-"$(cd "$(dirname "$0")/.." && pwd)/target/cuda"}
python3 -m venv "$folder" >&2
"$folder/bin/pip" install --quiet 'cuda-toolkit[nvcc,cudart,cccl,crt]==13.0.*' >&2
for root in "$folder"/lib/python3*/site-packages/nvidia/cu13; do
    "$root/bin/nvcc" --version >&2
    echo "$root"
done
