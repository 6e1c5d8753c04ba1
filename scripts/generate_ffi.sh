#!/bin/sh
# Writes src/backend/native/ffi.rs from cuda/api.h. Needs bindgen (cargo install bindgen-cli --version 0.72.1) and
# libclang (pip install libclang; then LIBCLANG_PATH=.../site-packages/clang/native).
# With --check it only compares, and fails when the file is stale.
set -eu
cd "$(dirname "$0")/.."
file=src/backend/native/ffi.rs
new=$(mktemp)
trap 'rm -f "$new"' EXIT
{
    echo "//! Generated from cuda/api.h by scripts/generate_ffi.sh; do not edit."
    echo "#![allow(non_camel_case_types, dead_code, reason = \"names are api.h's\")]"
    echo
    bindgen cuda/api.h --disable-header-comment --use-core --no-prepend-enum-name --rust-target 1.85 --rust-edition 2021 \
        --allowlist-type 'cusae_.*' --allowlist-var 'CUSAE_.*' --no-doc-comments -- -x c -std=c11
} > "$new"
rustfmt --edition 2021 --config-path rustfmt.toml "$new"
if [ "${1:-}" = --check ]; then
    diff -u "$file" "$new" || { echo "$file is stale: run scripts/generate_ffi.sh" >&2; exit 1; }
else
    cp "$new" "$file"
fi
