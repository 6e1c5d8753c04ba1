#!/bin/sh
# Runs the kernel tests in the emulator under AddressSanitizer and UndefinedBehaviorSanitizer: a
# compute-sanitizer for machines without a GPU. Arguments go to the test program.
set -eu
cd "$(dirname "$0")/.."
export CUSAE_EMU_SANITIZE=address,undefined
# Rust's own linker line puts the runtimes behind other libraries, so they are loaded first here.
tests=$(cargo test --no-run --test kernels --message-format json |
    sed -n 's/.*"executable":"\([^"]*kernels-[^"]*\)".*/\1/p')
ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" "$tests" "$@"
