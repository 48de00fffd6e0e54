# Every command of the project; `make help` lists them. One cargo profile: what is tested is what runs.

PYTHON ?= python3
TARGET := $(or $(CARGO_TARGET_DIR),target)
LUTHIER := $(TARGET)/release/luthier
ARGS ?=

.PHONY: help setup build run demo test lint soak bench sqlx dist check-dist clean
.DEFAULT_GOAL := help

help: ## List the commands
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Fetch what the build needs, once: libtorch, PostgreSQL, web scripts, samples
	@$(PYTHON) scripts/setup.py

build: setup ## Build both programs
	@cargo build --release --workspace --bins

run: build ## Build and serve on 127.0.0.1:8080 (ARGS="--listen …" for more)
	@exec $(LUTHIER) serve $(ARGS)

demo: build ## Serve, fine-tune the sample, show its metrics; DEMO_EXIT=1 ends after that
	@exec $(LUTHIER) demo $(ARGS)

test: ## Run every test (FILTER=name: only the Rust tests called so)
	@$(PYTHON) scripts/run_tests.py $(FILTER)

lint: ## Check form, clippy, dependencies' licences, the checked queries, the Docker files
	@$(PYTHON) scripts/lint.py

soak: ## Run the long tests, which `make test` leaves out
	@$(PYTHON) scripts/run_tests.py --soak $(FILTER)

bench: build ## Luthier beside transformers' Trainer, in turn: a table with bars (ARGS="--quick": minutes)
	@$(PYTHON) bench/reviews.py $(ARGS)
	@$(PYTHON) bench/language.py $(ARGS)

sqlx: setup ## Write .sqlx anew after a change of a query or a migration
	@$(PYTHON) scripts/sqlx.py

dist: build ## Pack dist/luthier-VERSION-linux-x86_64.tar.gz, which runs on a bare machine
	@$(PYTHON) scripts/dist.py

check-dist: dist ## Unpack that archive under an empty environment and train the sample
	@scripts/check-dist.sh

clean: ## Remove what was built here; fetched things stay in the cache
	@rm -rf build dist node_modules "$(TARGET)"
