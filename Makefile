# `make` lists the targets. CARGO_TARGET_DIR works as in cargo.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.PHONY: help demo test gate soak bench fuzz lint clean rust
.DEFAULT_GOAL := help

# How long the long checks run. CI shortens them.
FUZZ_SECONDS ?= 60
SNAPSHOTS ?= 1000
SOAK ?= whole
TOKEN ?= softhsm
# A folder with built programs `claviger` and `virtual-yubikey`, for `make demo`.
PROGRAMS ?=

# Every build of the workspace uses the same features, so that each crate is compiled once.
comma := ,
workspace = --workspace --locked --all-features

# The crates in which the full soak test spends its time are optimised. All others are reused from `make test`.
optimised = $(foreach package,claviger claviger-fault-module cryptoki tokio,--config profile.dev.package.$(package).opt-level=1)

# The tests make their own tokens, and need only the paths of the modules. Each variable is assigned before it is exported,
# because `export NAME=$(...)` would hide that the command failed.
define modules
softhsm/install kryoptic devices yubikey postgres browser
CLAVIGER_TEST_SOFTHSM=$$(softhsm/module)
CLAVIGER_TEST_KRYOPTIC=$$(tests/kryoptic/build)
CLAVIGER_TEST_TPM2=$$(softhsm/module tpm2)
CLAVIGER_TEST_NSS=$$(softhsm/module nss)
export CLAVIGER_TEST_SOFTHSM CLAVIGER_TEST_KRYOPTIC CLAVIGER_TEST_TPM2 CLAVIGER_TEST_NSS
endef

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/\1 \2/p' $(firstword $(MAKEFILE_LIST)) |
	while read -r target does; do printf 'make %-6s %s\n' "$$target" "$$does"; done

# A debug build takes half the time of a release build, and is fast enough because the tokens do the cryptography.
demo: rust ## run the demo: two agents exchange messages; TOKEN=yubikey: with virtual YubiKeys (as root)
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

test: rust ## run all tests, on SoftHSM, Kryoptic, tpm2-pkcs11, NSS softokn and virtual YubiKeys
	@$(modules)
	# Many tests wait for a daemon, a timeout or a token, so run more of them at once than there are processors.
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((2 * $$(nproc)))} cargo test $(workspace)

gate: rust ## search the memory of a working agent for secrets, SNAPSHOTS (1000) times
	@$(modules)
	CLAVIGER_GATE_SNAPSHOTS=$(SNAPSHOTS) cargo test $(workspace) --test process -- memory_gate::

soak: rust ## run the long tests: operations on a failing token, derivations, ten minutes of attacks, five of failing nodes; SOAK=short: five minutes
	@$(modules)
	export CLAVIGER_SOAK=$(SOAK)
	soak=(cargo test $(workspace) $(if $(filter whole,$(SOAK)),$(optimised)))
	"$${soak[@]}" --test keeper -- soak:: --nocapture --test-threads=1
	"$${soak[@]}" --test daemon -- attacks:: --nocapture
	"$${soak[@]}" --test daemon -- nodes:: --nocapture --test-threads=1

# BENCH_FLAGS=--test only checks that the benchmarks run, so a debug build is enough.
bench: rust ## measure the figures of docs/performance.md, and those of didcomm 0.4.1
	@$(modules)
	softhsm/install peers
	cargo bench --locked $(if $(filter --test,$(BENCH_FLAGS)),--profile dev) --manifest-path tests/interop/Cargo.toml -- $(BENCH_FLAGS)

# The address sanitizer needs a nightly flag. RUSTC_BOOTSTRAP makes the stable toolchain accept it.
fuzz: rust ## run each fuzz target for FUZZ_SECONDS (60); needs cargo-fuzz
	@softhsm/install fuzz
	command -v cargo-fuzz >/dev/null || { echo 'cargo-fuzz is missing: cargo install --locked cargo-fuzz' >&2; exit 1; }
	targets=$$(cargo fuzz list)
	for target in $$targets; do
		echo "== fuzz $$target, $(FUZZ_SECONDS) s"
		RUSTC_BOOTSTRAP=1 cargo fuzz run "$$target" -- -max_total_time=$(FUZZ_SECONDS) -timeout=10
	done

lint: rust ## check format, clippy and documentation; warnings are errors
	@cargo fmt --all --check
	cargo clippy $(workspace) --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc $(workspace) --no-deps

clean: rust ## delete build output; the cache with Kryoptic stays
	@cargo clean
	for package in tests/interop tests/kryoptic fuzz; do
		if [[ -e $$package/Cargo.toml ]]; then cargo clean --manifest-path "$$package/Cargo.toml"; fi
	done

# Fails with instructions if Rust is not installed.
rust:
	@if ! command -v cargo >/dev/null; then
		echo 'Rust is missing. https://rustup.rs installs it; so does, on Debian 13 and Ubuntu 24.04,' >&2
		echo '  sudo apt-get install rustup && rustup default stable' >&2
		echo 'Just installed? Open a new shell, or: . ~/.cargo/env' >&2
		exit 1
	fi
