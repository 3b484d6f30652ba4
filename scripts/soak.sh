#!/bin/sh
# Kills daemon, switch and machines at random while a world is edited, and checks that each `up` converges.
# SOAK_MINUTES (30), SOAK_SEED (random; printed, so that a run can be repeated).
set -eu
cd "$(dirname "$0")/.."
cargo build --release --locked --quiet -p weft-cli
python3 scripts/soak.py target/release/weft "${SOAK_MINUTES:-30}" "${SOAK_SEED:-$(date +%s)}"
