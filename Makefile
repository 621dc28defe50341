# `make` lists the targets. Everything sets up what it needs first, on a fresh machine too.
# PYTHON=/path/to/python chooses the interpreter that .venv is made with.
# BACKING=nodes or BACKING=docker chooses the backing services of demo, run, up, down and status. Without it they are
# containers where a Docker engine can start them, else private nodes.
# SKIP_MISSING_SERVERS=1 lets `make test` skip the tests whose server is not installed, and installs nothing.

SHELL := /bin/sh
.DEFAULT_GOAL := help
export PYTHON BACKING SKIP_MISSING_SERVERS

BIN := .venv/bin
READY := .venv/.ready
LOCAL := var/local
PACKAGES := $(wildcard pyproject.toml shared/pyproject.toml services/*/pyproject.toml deploy/local/pyproject.toml)

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## ---- see it work

.PHONY: demo
demo: $(READY) ## send real work through all four services, and show what came out
	@$(BIN)/python examples/demo/demo.py

.PHONY: run
run: up ## all services and the scheduler in the foreground, until Ctrl-C
	@$(BIN)/python -m local_stack run

.PHONY: up
up: $(READY) ## the backing services alone: containers where Docker can start them, else private nodes
	@$(BIN)/python -m local_stack up

.PHONY: down
down: $(READY) ## stop the backing services; their data stays
	@$(BIN)/python -m local_stack down

.PHONY: status
status: $(READY) ## which backing services answer, and where
	@$(BIN)/python -m local_stack status

## ---- prove it

.PHONY: servers
servers: $(READY) ## install RabbitMQ, Redis and PostgreSQL where they are missing (as root, or with Homebrew)
	@$(BIN)/python -m local_stack install

.PHONY: check
check: $(READY) ## format, lint, types (the documentation's code too), import layers, the services' declarations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -q tests/check

.PHONY: unit
unit: $(READY) ## the unit tests: a minute or two, no services
	$(BIN)/pytest -q -n 2 tests/unit

# Most tests wait, for a broker that starts or a lease that ends, so four processes share two cores.
.PHONY: test
test: $(if $(filter 1,$(SKIP_MISSING_SERVERS)),$(READY),servers) ## unit, contract, integration, trap and short chaos tests on private nodes
	$(BIN)/pytest -q -n 4 --dist loadfile --ignore=tests/load tests

.PHONY: matrix
matrix: ## make demo and make test on fresh machines of Debian 12, 13 and testing: an hour, as root, with debootstrap
	@deploy/matrix.sh

.PHONY: chaos
chaos: servers ## the long fault suite: jobs accepted, lost, run twice, for each fault
	$(BIN)/python tests/chaos/long.py

.PHONY: explore
explore: $(READY) ## walk a job's path through a simulated world, with faults at every point, for SECONDS=60
	$(BIN)/python tests/explore/explore.py --seconds $(or $(SECONDS),60)

.PHONY: fuzz
fuzz: servers ## 10,000 hostile messages into every queue: each dead-lettered with its reason, no good job hurt
	$(BIN)/python tests/chaos/fuzz.py

.PHONY: soak
soak: servers ## half an hour of mixed load under random faults: nothing grows, the ledger balances
	$(BIN)/python tests/chaos/soak.py

.PHONY: prove
prove: $(READY) ## the large size of each proof in the tests; writes docs/reference/proofs.md
	$(BIN)/python tests/prove.py

.PHONY: bench
bench: servers ## this project beside its peers; writes docs/reference/performance.md. FULL=1: backlogs up to a million
	$(BIN)/python tests/load/bench.py $(if $(filter 1,$(FULL)),--full)

## ---- containers

.PHONY: stack
stack: ## the whole project in containers
	@deploy/stack.sh up

.PHONY: stack-test
stack-test: $(READY) ## the smoke test of the containers
	@deploy/stack.sh test

## ---- look after it

.PHONY: setup
setup: $(READY) ## make .venv from the lock file (every target does it when needed)
	@printf 'ready: .venv, %s\n' "$$($(BIN)/python --version)"

# Asked for another Python than .venv has, it is made again.
PYTHON_VERSION := -c 'import sys; print(sys.version_info[:3])' 2>/dev/null
ifneq ($(and $(PYTHON),$(wildcard $(READY))),)
ifneq ($(shell $(PYTHON) $(PYTHON_VERSION)),$(shell $(BIN)/python $(PYTHON_VERSION)))
.PHONY: $(READY)
endif
endif

$(READY): requirements.lock $(PACKAGES) deploy/setup.sh
	@deploy/setup.sh

.PHONY: lock
lock: $(READY) ## write every requirements.lock again
	deploy/lock.sh

.PHONY: clean
clean: ## stop the backing services, and remove all that was made here
	@if [ -x $(BIN)/python ] && [ -d $(LOCAL) ]; then $(BIN)/python -m local_stack down; fi
	rm -rf .venv var build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
