#!/bin/sh
# Runs the kernel tests, threads in one order, in an emulator compiled with AddressSanitizer and
# UndefinedBehaviorSanitizer: a compute-sanitizer for machines without a GPU. Arguments go to the test program.
set -eu
cd "$(dirname "$0")/.."
folder=$PWD/target/sanitized
sanitizers="-fsanitize=address,undefined -fno-sanitize-recover=all"
flags="-std=c++20 -O1 -g1 -fPIC -fno-omit-frame-pointer -ffp-contract=off -Wno-unknown-pragmas -Itests/emu/include $sanitizers"
if grep -qw fma /proc/cpuinfo; then flags="$flags -mfma"; fi # else every fmaf is a function call
export folder flags
rm -rf "$folder" && mkdir -p "$folder" # no object of a file that is gone
for file in cuda/*.cu; do echo "$file"; done |
    xargs -P "$(nproc)" -I{} sh -c 'c++ $flags -xc++ -c {} -o "$folder/$(basename {} .cu).o"'
# shellcheck disable=SC2086 # flags
c++ -shared $sanitizers "$folder"/*.o -o "$folder/emulator.so"
tests=$(cargo test --no-run --test kernels --message-format json |
    sed -n 's/.*"executable":"\([^"]*kernels-[^"]*\)".*/\1/p')
# The test program is not compiled with them, so their runtimes are loaded first here.
CUSAE_TEST_DEVICE=emulated_once CUSAE_EMU_LIBRARY=$folder/emulator.so ASAN_OPTIONS=detect_leaks=0 \
    LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" "$tests" "$@"
