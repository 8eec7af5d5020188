#!/bin/sh
# Runs each fuzz target for FUZZ_SECONDS (60); a crash is kept in tests/fuzz/artifacts and ends the run.
set -eu
cd "$(dirname "$0")/../.."
rustup toolchain list | grep -q '^nightly' || { echo "installing nightly Rust, which libFuzzer needs"; rustup toolchain install nightly --profile minimal; }
cargo fuzz --version >/dev/null 2>&1 || { echo "installing cargo-fuzz"; cargo install --locked cargo-fuzz; }
for target in tests/fuzz/targets/*.rs; do
    name=$(basename "$target" .rs)
    echo "fuzzing $name for ${FUZZ_SECONDS:-60} s"
    cargo +nightly fuzz run --fuzz-dir tests/fuzz "$name" -- -max_total_time="${FUZZ_SECONDS:-60}" -max_len=8192
done
