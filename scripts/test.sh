#!/bin/sh
# Style, lints, then every test. The machines of the end-to-end tests boot one world after the other.
set -eu
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*" >&2; }

step "style and lints"
cargo fmt --all --check
cargo clippy --locked --workspace --all-targets --quiet -- -D warnings

step "tests"
cargo test --locked --workspace --no-fail-fast
