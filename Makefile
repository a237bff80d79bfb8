# Every task of the project; `make help` lists them. CI runs these and nothing else.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
OUT ?= results
# The slow tests lie together: a process that is done takes over from the other.
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup study report test test-quick pairs lint format env clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## create .venv with the pinned dependencies

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "batchnorm needs Python 3.11 or newer, found `$(PYTHON) --version`; try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 3; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt hatchling editables
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[study,dev]'
	@touch $@

study: $(READY) ## train with and without batch normalization on real data, and write the report
	$(BIN)/batchnorm study --out $(OUT)

report: $(READY) ## draw the report of a finished study again
	$(BIN)/batchnorm report $(OUT)

test: $(READY) ## run the whole test suite
	$(PYTEST)

test-quick: $(READY) ## run the tests that take no more than a few seconds each
	$(PYTEST) -m 'not slow and not browser'

pairs: $(READY) ## write docs/pairs.md: which features of the layer are tested together
	$(BIN)/python -m tests.pairs

lint: $(READY) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## put the code into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

env: $(READY) ## show versions, devices and kernels
	$(BIN)/batchnorm env

clean: ## remove everything that was made here, studies excepted
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
