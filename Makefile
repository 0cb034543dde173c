# Every target does its own set-up and may be run on a fresh Debian 12; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# rustup may have been installed by `setup` a moment ago: no shell knows it yet.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)
TARGET := $(or $(CARGO_TARGET_DIR),target)
PROGRAMS := --manifest-path ebpf/programs/Cargo.toml

# The tests that compare generated files with the tree, and write them with CILIUM_BLESS=1.
GENERATED := --package cilium --package cilium-sources --package cilium-crds generated_files

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: setup
setup: ## install what building, testing and running need; quick when it is all there
	@deploy/xtask/setup

.PHONY: setup-vm
setup-vm: ## the same, and QEMU with the kernels of `make test-vm`
	@deploy/xtask/setup vm
	@tests/vm/kernels

.PHONY: ebpf
ebpf: setup ## target/bpf/cilium.bpf.o
	@cargo xtask ebpf

.PHONY: build
build: setup ## target/release/cilium and the static target/release/cilium-cni
	cargo build --release --package cilium
	cargo rustc --release --package cilium-cni --bin cilium-cni -- -C target-feature=+crt-static
	@ln -sf cilium $(TARGET)/release/cilium-dbg

.PHONY: run
run: build ## two nodes, pods, a Service, a policy, a repaired datapath; then cleans up
	@deploy/demo/run

.PHONY: run-lb
run-lb: build ## two load balancers without pods or Kubernetes, in front of three backends; then cleans up
	@deploy/standalone/run

.PHONY: test
test: ebpf ## all tests of a plain run, as root (L0 to L3, short forms)
	cargo test --quiet $(PROGRAMS) --lib
	cargo build --package cilium --package cilium-cni
	@tests/run

.PHONY: test-long
test-long: ebpf ## the same with the full counts
	cargo build --release --package cilium --package cilium-cni
	@CILIUM_TEST_LONG=1 tests/run --workspace --release

.PHONY: test-vm
test-vm: ebpf setup-vm ## every program, the packet tests and two whole nodes on other kernels, under QEMU
	@tests/vm/run

.PHONY: bench
bench: build ## the performance goals, each against a reference in the same run (root, minutes)
	cargo build --release --package cilium-bench
	@$(TARGET)/release/cilium-bench --json $(TARGET)/bench.json

.PHONY: bench-quick
bench-quick: build ## the part of it without traffic; a missed goal fails it
	cargo build --release --package cilium-bench
	@$(TARGET)/release/cilium-bench --quick --json $(TARGET)/bench.json

.PHONY: lint
lint: ebpf ## formatting, clippy, rustdoc, generated files; warnings are errors
	cargo fmt --all -- --check
	cargo fmt $(PROGRAMS) -- --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTC_BOOTSTRAP=1 cargo clippy --quiet $(PROGRAMS) -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
	cargo test --quiet $(GENERATED)
	@if command -v cargo-deny >/dev/null; then cargo deny --log-level error check; else echo "lint: cargo-deny is not installed, licences and advisories not checked"; fi

.PHONY: generate
generate: setup ## write the files that are generated from the types
	CILIUM_BLESS=1 cargo test --quiet $(GENERATED)

.PHONY: clean
clean: ## remove what was built; what setup installed stays
	cargo clean
	rm -rf ebpf/programs/target
