#!/bin/sh
# Measures the main job and the switch's core, and prints the rows of docs/PERFORMANCE.md.
# BENCH_ROUNDS (5) rounds of the quickstart; `cargo bench` for the core; SWITCH_ROUNDS (7) rounds beside its peers,
# NAT_ROUNDS (5) of the NAT device beside its own, and DHCP_ROUNDS (5) of the DHCP server beside Kea.
set -eu
cd "$(dirname "$0")/.."
cargo build --release --locked --quiet -p weft-cli
python3 scripts/bench.py target/release/weft "${BENCH_ROUNDS:-5}"
cargo bench --locked --quiet -p weft-switch
[ "$(id -u)" != 0 ] && echo "left out: the switch and NAT beside their peers need root" >&2 && exit 0
python3 bench/switch.py target/release/weft "${SWITCH_ROUNDS:-7}"
python3 bench/nat.py target/release/weft "${NAT_ROUNDS:-5}"
python3 bench/dhcp.py target/release/weft "${DHCP_ROUNDS:-5}"
