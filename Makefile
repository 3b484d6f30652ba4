# `make demo` shows the main job; `make test` runs every test. Both install what they need on Debian.
CARGO ?= cargo
export CARGO_TERM_PROGRESS_WHEN ?= never

.PHONY: demo test bench soak metal setup build install fmt clean

setup:            ## install what Weft needs on this host (asks for root if it must)
	@scripts/setup.sh

build:            ## the optimised binary, target/release/weft
	$(CARGO) build --release --locked -p weft-cli

demo: setup build ## three machines on two networks, shown and taken down again
	@scripts/demo.sh target/release/weft

test: setup       ## style, lints, every test of every room, real machines, rootless too
	@scripts/test.sh

bench: setup      ## measured against peers in the same run; prints the rows of docs/PERFORMANCE.md
	@scripts/bench.sh

soak: setup       ## kills, edits and restarts for a long time (SOAK_MINUTES, 30 by default)
	@scripts/soak.sh

metal: setup build ## a shell on virtual bare metal with KVM and weft (RUN=FOLDER: FOLDER/run is run there instead)
	@$(CARGO) run --locked --quiet -p weft-testkit --example metal -- --kvm --with target/release/weft $(RUN)

install: build    ## into ~/.local, or /usr/local as root (PREFIX changes it)
	@scripts/install.sh target/release/weft

fmt:
	$(CARGO) fmt --all

clean:
	$(CARGO) clean
