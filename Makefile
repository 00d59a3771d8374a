# Ringhorn. `make help` lists the targets; each does all of its own set-up and is quick when nothing
# changed.

# The interpreter to build and test for: any CPython >= 3.9.
PYTHON ?= $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV)/bin/python,python3)
# Where `make serve` listens.
BIND ?= 127.0.0.1:8000
# More arguments for pytest, for example PYTEST_ARGS="-k nginx".
PYTEST_ARGS ?=
# Seconds for each fuzz target.
FUZZ_SECONDS ?= 60

TARGET := $(or $(CARGO_TARGET_DIR),target)
RUNTIME := $(TARGET)/runtime
VENV := $(TARGET)/venv
CARGO_TEST := cargo test --no-fail-fast --locked --workspace --exclude ringhorn-cpython
# Link-time optimization would take longer than the models do.
LOOM := RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 CARGO_PROFILE_RELEASE_LTO=off
LOOM_PACKAGE := --locked --package ringhorn-exchange --lib --target-dir $(TARGET)/loom
export PYTHON
SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := help
.PHONY: help serve build python-module test test-rust test-python drills loom fuzz lint bench clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

serve: build ## Build in release and serve examples/hello (BIND=127.0.0.1:8000)
	@echo "serving examples/hello on http://$(BIND) (Ctrl-C ends it)"
	@exec $(RUNTIME)/ringhorn --python "$(PYTHON)" --bind "$(BIND)" --chdir examples/hello \
	    hello:application

build: ## The server and the native modules for PYTHON, in target/runtime
	@tools/needs build
	@"$(PYTHON)" tools/runtime.py --python "$(PYTHON)" --out $(RUNTIME)

python-module: ## The native modules alone: make python-module PYTHON=python3.12
	@tools/needs build
	@"$(PYTHON)" tools/runtime.py --python "$(PYTHON)" --out $(RUNTIME) --no-server

test: test-rust loom test-python ## Every test: Rust, the loom models, pytest

test-rust: python-module ## cargo test over the workspace and the CPython runtime (real workers)
	@tools/needs test
	$(CARGO_TEST)
	@"$(PYTHON)" tools/runtime.py --python "$(PYTHON)" --out $(RUNTIME) --test

test-python: build ## pytest against the release build (PYTEST_ARGS=...)
	@tools/needs test
	@tools/venv
	RINGHORN_BIN="$${RINGHORN_BIN:-$(abspath $(RUNTIME))/ringhorn}" \
	    $(VENV)/bin/python -m pytest tests/py -n auto $(PYTEST_ARGS)

drills: build ## The fault drills at full length, alone on the machine (35 minutes; docs/operations.md)
	@tools/needs test
	@tools/venv
	RINGHORN_DRILLS=full RINGHORN_BIN="$${RINGHORN_BIN:-$(abspath $(RUNTIME))/ringhorn}" \
	    $(VENV)/bin/python -m pytest tests/py/faults $(PYTEST_ARGS)

loom: ## The exchange's models: every interleaving of claim, queue, rings, bitmap and waits
	@tools/needs rust
	$(LOOM) cargo test $(LOOM_PACKAGE) --release

fuzz: ## Every fuzz target for FUZZ_SECONDS=60 (needs nightly Rust and cargo-fuzz)
	@tools/needs build
	@tools/fuzz $(FUZZ_SECONDS)

lint: ## Formatting, clippy over every target, documentation links, ruff
	@tools/needs test
	@tools/venv
	cargo fmt --all --check
	cargo clippy --locked --workspace --exclude ringhorn-cpython --all-targets -- -D warnings
	"$(PYTHON)" tools/runtime.py --python "$(PYTHON)" --check
	$(LOOM) cargo clippy $(LOOM_PACKAGE) --profile test -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --locked --no-deps \
	    --workspace --exclude ringhorn-cpython --document-private-items
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/ruff format --quiet --check .

bench: build ## Ringhorn beside its peers (benches/peers), with the machine and the method printed
	@benches/peers/setup.sh
	@$(PYTHON) benches/peers/run.py --cases all --rounds 5

clean: ## Remove what was built
	rm -rf $(TARGET) build dist
