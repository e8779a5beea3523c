#!/usr/bin/env bash
# Run the cuda leg on a machine that has an NVIDIA GPU, torch with CUDA, transformers, peft, jax and flax, but no internet.
#
#   python -m benchmarks.carry pack .carry                       where there is internet: 40 MB
#   benchmarks/device.sh .carry --minutes 8 --output results     on the GPU machine, in a copy of the checkout with .carry
#
# PYTHON names another interpreter. What is installed is not changed: wheels and model go to a temporary folder.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
fail() { echo "error: $1" >&2; exit 2; }
[ $# -ge 1 ] || fail "Name the folder that 'python -m benchmarks.carry pack FOLDER' has filled."
carried=$1
shift
[ -f "$carried/smollm2.gguf" ] || fail "$carried has no smollm2.gguf; make it with 'python -m benchmarks.carry pack $carried' where there is internet."
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    fail "The torch of $python sees no NVIDIA GPU (torch.cuda.is_available() is False); set PYTHON to an interpreter whose torch has CUDA."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target "$scratch/site" "$carried"/*.whl
export PYTHONPATH="$PWD:$scratch/site" LOLM_CACHE="$scratch/cache" HF_HUB_OFFLINE=1 JAX_PLATFORMS=cpu PYTHONUNBUFFERED=1
"$python" -m benchmarks.carry unpack "$carried"
"$python" -m benchmarks --leg cuda "$@"
