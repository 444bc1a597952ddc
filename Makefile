# Every target creates the environment it needs. `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Interpreters on the PATH and of pyenv, one of each minor version, without the default one's.
OTHER_PYTHONS = $(shell for python in python3.11 python3.12 python3.13 python3.14 \
    $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.1[1-9]*/bin/python3; do \
  $$python -c 'import ensurepip, sys; print("%d.%d" % sys.version_info[:2], sys.executable)' 2>/dev/null; \
  done | sort -u -k1,1 | grep -v "^$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])') " | cut -d' ' -f2)

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check lint types crash campaign bench soak format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

demo: $(VENV)/.dev  ## show the promise on real input: kill, outage, lost answers, drain, and count
	$(BIN)/python -m durable_tracker demo

test: $(VENV)/.dev  ## the fast tests (F tier)
	$(BIN)/python -m pytest

test-all:  ## the fast tests on every Python from 3.11 on that this machine has, beside the default one
	@for python in $(OTHER_PYTHONS); do \
	  echo "== $$($$python --version)"; \
	  $(MAKE) --no-print-directory test PYTHON=$$python VENV=.venv-$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])') || exit 1; \
	done

lint: $(VENV)/.dev  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## mypy, strict
	$(BIN)/mypy

check: lint types test  ## lint, types, tests

crash: $(VENV)/.dev  ## the slow tier (S): kills, power loss, forks, damage, long properties
	$(BIN)/python -m pytest -m slow --timeout=900

campaign: $(VENV)/.dev  ## all seeds of the campaigns of which the slow tier runs the first tenth
	CAMPAIGN=whole $(BIN)/python -m pytest -m slow -s --timeout=7200 tests/faults/test_two_faults_everywhere.py \
	  tests/faults/test_onlookers.py tests/test_delivery_property.py

bench: $(VENV)/.bench  ## measure beside the peers, in one run
	$(BIN)/python -m benchmarks

soak: $(VENV)/.dev  ## a long run against a flapping collector (SECONDS=600)
	$(BIN)/python -m tests.soak $(or $(SECONDS),600)

format: $(VENV)/.dev  ## let ruff format the code
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

clean:  ## remove what the targets made
	rm -rf $(VENV) .venv-* build .pytest_cache .mypy_cache .ruff_cache .hypothesis .demo
