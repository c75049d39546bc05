# `make` lists what there is. CARGO_TARGET_DIR is honoured, as cargo does.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.PHONY: help demo test gate soak bench fuzz lint clean rust
.DEFAULT_GOAL := help

# How long the long checks are. CI runs them shorter.
FUZZ_SECONDS ?= 60
SNAPSHOTS ?= 1000
SOAK ?= whole
TOKEN ?= softhsm
# The folder of a `claviger` and a `virtual-yubikey` that are built already, for `make demo`.
PROGRAMS ?=

# One set of features for everything that is built of the workspace, so that each part is compiled once.
comma := ,
workspace = --workspace --locked --all-features

# What a debug build spends its time in while a token works, for the whole soak. All else stays as `make test` has built it.
optimised = $(foreach package,claviger claviger-fault-module cryptoki tokio,--config profile.dev.package.$(package).opt-level=1)

# The suites make their own tokens; they are told only where the modules are. An assignment of its own
# for each, since `export NAME=$(...)` would hide that the command failed.
define modules
softhsm/install kryoptic devices yubikey browser
CLAVIGER_TEST_SOFTHSM=$$(softhsm/module)
CLAVIGER_TEST_KRYOPTIC=$$(tests/kryoptic/build)
CLAVIGER_TEST_TPM2=$$(softhsm/module tpm2)
CLAVIGER_TEST_NSS=$$(softhsm/module nss)
export CLAVIGER_TEST_SOFTHSM CLAVIGER_TEST_KRYOPTIC CLAVIGER_TEST_TPM2 CLAVIGER_TEST_NSS
endef

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/\1 \2/p' $(firstword $(MAKEFILE_LIST)) |
	while read -r target does; do printf 'make %-6s %s\n' "$$target" "$$does"; done

# A debug build: it is there in half the time of a release build, and the tokens do the arithmetic.
demo: rust ## Alice and Bob talk, each with keys in a token of their own; TOKEN=yubikey: in virtual YubiKeys (as root)
	@claviger='$(PROGRAMS)/claviger' virtual_yubikey='$(PROGRAMS)/virtual-yubikey'
	case '$(TOKEN)' in
	softhsm)
		softhsm/install
		$(if $(PROGRAMS),"$$claviger",cargo run --locked --features cli --bin claviger --) demo
		;;
	yubikey)
		softhsm/install yubikey
		$(if $(PROGRAMS),,cargo build --locked --features cli$(comma)yubikey --bin claviger)
		$(if $(PROGRAMS),"$$virtual_yubikey",cargo run --locked --package claviger-virtual-yubikey --) \
			run 5.7.1:1111 5.4.3:2222 -- \
			$(if $(PROGRAMS),"$$claviger",cargo run --quiet --locked --features cli$(comma)yubikey --bin claviger --) \
			demo --yubikey 1111 --yubikey 2222
		;;
	*)
		echo 'make demo: TOKEN is softhsm or yubikey' >&2
		exit 2
		;;
	esac

test: rust ## every test, on SoftHSM, Kryoptic, tpm2-pkcs11, NSS softokn and virtual YubiKeys
	@$(modules)
	# Many tests wait: for a daemon, a timeout, a token. So there are more of them at once than processors.
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((2 * $$(nproc)))} cargo test $(workspace)

gate: rust ## the memory of an agent and its keeper at work, read from outside SNAPSHOTS (1000) times
	@$(modules)
	CLAVIGER_GATE_SNAPSHOTS=$(SNAPSHOTS) cargo test $(workspace) --test process -- memory_gate::

soak: rust ## what takes minutes: 640,000 operations on a token that fails, 1,000,000 derivations; SOAK=short: a minute or two
	@$(modules)
	CLAVIGER_SOAK=$(SOAK) cargo test $(workspace) $(if $(filter whole,$(SOAK)),$(optimised)) --test keeper -- \
		soak:: --nocapture --test-threads=1

# To see that they run (BENCH_FLAGS=--test), they need no release build.
bench: rust ## the figures of docs/performance.md, side by side with didcomm 0.4.1
	@$(modules)
	cargo bench --locked $(if $(filter --test,$(BENCH_FLAGS)),--profile dev) --manifest-path tests/interop/Cargo.toml -- $(BENCH_FLAGS)

# The address sanitizer is a nightly flag; RUSTC_BOOTSTRAP lets the one stable toolchain take it.
fuzz: rust ## every fuzz target, FUZZ_SECONDS (60) each; needs cargo-fuzz
	@softhsm/install fuzz
	command -v cargo-fuzz >/dev/null || { echo 'cargo-fuzz is missing: cargo install --locked cargo-fuzz' >&2; exit 1; }
	targets=$$(cargo fuzz list)
	for target in $$targets; do
		echo "== fuzz $$target, $(FUZZ_SECONDS) s"
		RUSTC_BOOTSTRAP=1 cargo fuzz run "$$target" -- -max_total_time=$(FUZZ_SECONDS) -timeout=10
	done

lint: rust ## format, clippy and documentation, warnings as errors
	@cargo fmt --all --check
	cargo clippy $(workspace) --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc $(workspace) --no-deps

clean: rust ## what was built here; the cache with Kryoptic stays
	@cargo clean
	for package in tests/interop tests/kryoptic fuzz; do
		if [[ -e $$package/Cargo.toml ]]; then cargo clean --manifest-path "$$package/Cargo.toml"; fi
	done

rust:
	@if ! command -v cargo >/dev/null; then
		echo 'Rust is missing. https://rustup.rs installs it; so does, on Debian 13 and Ubuntu 24.04,' >&2
		echo '  sudo apt-get install rustup && rustup default stable' >&2
		echo 'Just installed? Open a new shell, or: . ~/.cargo/env' >&2
		exit 1
	fi
