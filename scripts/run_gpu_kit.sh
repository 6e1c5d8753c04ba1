#!/bin/sh
# Runs the kit that build_gpu_kit.sh has made, in the folder that this file is in: under nine minutes,
# every part with a time limit of its own and whatever becomes of the others.
#   ./run_gpu_kit.sh [RESULT.json]      (default: gpu_kit_result.json in the current folder)
# It needs an NVIDIA driver for the parts on a GPU, and Python 3.9; with PyTorch, also peers are timed.
set -eu
exec python3 "$(dirname "$0")/gpu_kit.py" --out "${1:-gpu_kit_result.json}"
