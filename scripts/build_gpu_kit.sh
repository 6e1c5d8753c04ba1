#!/bin/sh
# Builds a folder (default: target/gpu_kit) for a machine with an NVIDIA driver and Python, but without
# Rust: the program, the tests that run kernels with their data, and run_gpu_kit.sh, which runs them.
#   export CUDA_HOME=$(scripts/install_nvcc.sh); scripts/build_gpu_kit.sh [FOLDER]
# CUSAE_KIT_PROFILE names another profile of Cargo's than release, CUSAE_KIT_FEATURES more features.
set -eu
cd "$(dirname "$0")/.."
kit=${1:-target/gpu_kit}
profile=${CUSAE_KIT_PROFILE:-release}
limit_mb=60
CUSAE_COMMIT=$(git describe --always --dirty --abbrev=40)
export CUSAE_COMMIT CUSAE_REQUIRE_CUDA=1

# The path of the one program that `cargo ARGUMENTS` makes for a target of this kind and name.
program() {
    kind=$1 name=$2
    shift 2
    cargo "$@" --profile "$profile" --features "${CUSAE_KIT_FEATURES:-}" --message-format json |
        sed -n "s/.*\"kind\":\[\"$kind\"\][^}]*\"name\":\"$name\".*\"executable\":\"\([^\"]*\)\".*/\1/p"
}

rm -rf "$kit"
mkdir -p "$kit/bin" "$kit/tests/data/train" "$kit/tests/data/gpt2-rand-tiny"
cp "$(program bin cusae build --bin cusae)" "$kit/bin/cusae"
cp "$(program test gpu_kit test --no-run --test gpu_kit)" "$kit/bin/tests"
strip "$kit"/bin/*
cp tests/data/gpt2-rand-tiny/config.json tests/data/gpt2-rand-tiny/model.safetensors "$kit/tests/data/gpt2-rand-tiny"
cp tests/data/train/data.safetensors "$kit/tests/data/train"
for trace in $(sed -n 's/^ *kernels_.*("\([^"]*\)".*);/\1/p' tests/training_traces.rs | sort -u); do
    cp -r "tests/data/train/$trace" "$kit/tests/data/train"
done
cp scripts/run_gpu_kit.sh scripts/gpu_kit.py scripts/gpu_peers.py "$kit"

# The newest version of a library that the programs ask for.
newest() { objdump -T "$kit"/bin/* | grep -o "$1"'_[0-9.]*' | sort -u -V | tail -1; }
needs="x86-64 with FMA, $(newest GLIBC), $(newest GLIBCXX)"
cat >"$kit/kit.json" <<JSON
{
  "version": "$("$kit/bin/cusae" --version | cut -d' ' -f2)",
  "commit": "$CUSAE_COMMIT",
  "built": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
  "profile": "$profile",
  "rustc": "$(rustc --version)",
  "needs": "$needs"
}
JSON
gzip -9 "$kit"/bin/* # gpu_kit.py unpacks them
size_mb=$(du -sm "$kit" | cut -f1)
echo "$kit: $size_mb MB, needs $needs"
if [ "$size_mb" -gt "$limit_mb" ]; then
    echo "error: the kit is larger than $limit_mb MB" >&2
    exit 1
fi
