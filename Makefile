# Each target first brings .venv to what the locks say (requirements/install.py); only Python 3.11 has to be there.
PYTHON ?= python3.11
VENV ?= .venv
ARGS ?=
# Two test files at a time, each whole in one process, which so makes its fixtures once.
SIDE_BY_SIDE ?= -n 2 --dist loadfile

BIN := $(VENV)/bin
COMPILE = $(BIN)/uv pip compile --quiet --python-version 3.11 --python-platform linux --no-annotate \
	--custom-compile-command 'make lock' $(ARGS)

# $(call install,LOCK)
define install
@command -v '$(PYTHON)' >/dev/null || { \
	echo "error: '$(PYTHON)' was not found; install Python 3.11, or name it: make $@ PYTHON=/path/to/python3.11" >&2; exit 2; }
@'$(PYTHON)' requirements/install.py $(1) --venv '$(VENV)'
endef

.PHONY: help run test test-slow test-interop bench lint format lock clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

run:  ## the starter experiment, or ARGS='model=opt mode=plan …'
	$(call install,run)
	@$(BIN)/python -m mobilebert_exp $(ARGS)

test:  ## the fast tests; ARGS='tests/test_config.py -x' goes to pytest
	$(call install,test)
	@$(BIN)/python -m pytest -m 'not slow and not interop' $(SIDE_BY_SIDE) $(ARGS)

test-slow:  ## the slow tests
	$(call install,test)
	@$(BIN)/python -m pytest -m 'slow and not interop' $(SIDE_BY_SIDE) $(ARGS)

test-interop:  ## those against PyTorch and transformers, which it installs
	$(call install,test)
	$(call install,bench)
	@$(BIN)/python -m pytest -m interop $(SIDE_BY_SIDE) $(ARGS)

bench:  ## the benchmarks, against tf-models and PyTorch
	$(call install,bench)
	@$(BIN)/python -m benchmarks $(ARGS)

lint:  ## ruff and mypy, as CI runs them
	$(call install,test)
	@failed=0; \
	$(BIN)/ruff check || failed=1; \
	$(BIN)/ruff format --check || failed=1; \
	$(BIN)/mypy || failed=1; \
	exit $$failed

format:  ## lets ruff mend and lay out what it can
	$(call install,test)
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

lock:  ## the locks from pyproject.toml; ARGS=--upgrade moves every version
	$(call install,test)
	$(COMPILE) --generate-hashes --output-file requirements/run.lock pyproject.toml
	$(COMPILE) --generate-hashes --output-file requirements/build.lock --constraints requirements/run.lock --group build
	$(COMPILE) --generate-hashes --output-file requirements/test.lock --constraints requirements/run.lock --extra test --extra dev pyproject.toml
	$(COMPILE) --output-file requirements/bench.lock --constraints requirements/run.lock --extra bench --extra interop --extra beam pyproject.toml

clean:  ## removes .venv and caches; keeps outputs
	test ! -e '$(VENV)/made-by-make' || rm -rf '$(VENV)'
	rm -rf dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './outputs/*' -prune -exec rm -rf {} +
