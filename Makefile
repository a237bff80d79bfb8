# Every task of the project; `make help` lists them. CI runs these and nothing else.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
OUT ?= results
# The slow tests lie together: a process that is done takes over from the other.
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal
CHECKED := -DCMAKE_BUILD_TYPE=Debug -DBATCHNORM_STRICT=ON -DBATCHNORM_TESTS=ON
# The sanitizer of threads does not know the addresses that newer kernels of Linux choose at random.
FIXED := $(shell setarch -R true 2>/dev/null && echo setarch -R)
LIBRARY := src/batchnorm/_native/libbatchnorm_cpu
CONFIGURE := $(BIN)/cmake -S . -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja

# Material for MkDocs announces its successor at every build.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup native kernels sanitize huge study bench gpu report teaching records test test-quick \
  gallery notebooks pairs performance docs docs-serve lint format env clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## create .venv with the pinned dependencies

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "batchnorm needs Python 3.11 or newer, found `$(PYTHON) --version`; try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 3; }
	@echo 'Installing into .venv, and compiling the C++ kernels: some minutes on a small machine'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt scikit-build-core cmake ninja setuptools
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[study,dev,docs]'
	@ls $(LIBRARY).* >/dev/null 2>&1 || \
	  echo "The C++ kernels are not compiled; PyTorch's serve instead. With g++ installed, run: make native" >&2
	@touch $@

native: $(READY) ## compile the C++ kernels, or fail; needs g++ or clang++
	$(CONFIGURE) -B build/native -DBATCHNORM_IN_PLACE=ON
	$(BIN)/cmake --build build/native

# Whatever runs, runs the kernels of the sources at hand, or, where they never could be compiled, none.
kernels: $(READY) ## compile the C++ kernels again where their sources have changed
	@! test -f build/native/build.ninja || $(BIN)/cmake --build build/native -- --quiet || \
	  { test -z "$$BATCHNORM_REQUIRE_NATIVE" && ! ls $(LIBRARY).* >/dev/null 2>&1; }

sanitize: $(READY) ## run the C++ kernels on odd sizes, under the sanitizers of memory, arithmetic, threads
	$(CONFIGURE) -B build/sanitize $(CHECKED) -DBATCHNORM_SANITIZE=address,undefined
	$(BIN)/cmake --build build/sanitize --target batchnorm_cpu_test
	build/sanitize/batchnorm_cpu_test
	$(CONFIGURE) -B build/threads $(CHECKED) -DBATCHNORM_SANITIZE=thread
	$(BIN)/cmake --build build/threads --target batchnorm_cpu_test
	$(FIXED) build/threads/batchnorm_cpu_test shared

huge: native ## run the C++ kernels on more than 2^31 values
	$(CONFIGURE) -B build/native -DBATCHNORM_TESTS=ON
	$(BIN)/cmake --build build/native --target batchnorm_cpu_test
	build/native/batchnorm_cpu_test huge

study: kernels ## train with and without batch normalization on real data, and write the report
	$(BIN)/batchnorm study --out $(OUT)

bench: kernels ## time everyone, save the rows in benchmarks/results/NAME.json, and document them
	@mkdir -p benchmarks/results
	$(BIN)/batchnorm bench --out benchmarks/results/$(or $(NAME),float32).json $(ARGS)
	$(BIN)/python benchmarks/document.py

gpu: kernels ## measure a GPU in ten minutes, save the rows in benchmarks/results/, and document them
	$(BIN)/python benchmarks/gpu.py $(ARGS)
	$(BIN)/python benchmarks/document.py

performance: $(READY) ## write docs/performance.md from the saved rows of the benchmarks
	$(BIN)/python benchmarks/document.py

report: $(READY) ## draw the report of a finished study again
	$(BIN)/batchnorm report $(OUT)

teaching: $(READY) ## draw the figures of the teaching pages and write their numbers, from docs/data
	$(BIN)/python -m teaching figures

records: kernels ## measure anew what the teaching pages say, two whole studies among it: half an hour
	rm -rf build/study
	$(BIN)/batchnorm study --out build/study
	mkdir -p docs/data/study
	cp build/study/results.json docs/data/study/
	$(BIN)/python -m teaching measure
	$(BIN)/python -m teaching figures

test: kernels ## run the whole test suite
	$(PYTEST)

test-quick: kernels ## run the tests that take seconds, all together a few minutes
	$(PYTEST) -m 'not slow and not browser'

gallery: kernels ## run the examples, draw their pictures, and write what they print into docs/examples.md
	$(BIN)/python examples/gallery.py $(NAME)

notebooks: kernels ## run examples/notebooks/*.py, and save them as notebooks
	$(BIN)/python examples/execute.py $(NAME)

pairs: $(READY) ## write docs/pairs.md: which features of the layer are tested together
	$(BIN)/python -m tests.pairs

# Not --quiet: what is not said is not counted by --strict.
docs: $(READY) ## build the documentation into build/site, to be opened as files
	$(MKDOCS) build --strict
	@echo 'The documentation: $(abspath build/site/index.html)'

docs-serve: $(READY) ## serve the documentation while it is being written
	$(MKDOCS) serve

lint: $(READY) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## put the code into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

env: kernels ## show versions, devices and kernels
	$(BIN)/batchnorm env

clean: ## remove everything that was made here, studies excepted
	rm -rf .venv build dist src/batchnorm/_native .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
