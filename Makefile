# Each target does its own set-up: a .venv, pinned by constraints.txt. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes: one has the Ray cluster and what needs it, the other runs the rest (tests/schedule.py).
PYTEST := $(BIN)/python -m pytest -q --numprocesses 2 --dist loadscope --durations 15
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO := 0

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-plain test-floors test-latest lint format bench clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-11s %s\n", $$1, $$2}'

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.ready ## run the main job on real data: write, train with two workers, classify, write back
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.ready ## run the tests, but for the slow ones
	$(PYTEST) -m "not slow"

test-all: test ## run every test: then also the slow ones (chaos, many kills, soak), and properties with more examples
	$(PYTEST) -m "slow or hypothesis" --hypothesis-profile many

PLAIN := $(foreach name,read write permutation train batches filters types collation late_types,tests/integration/test_$(name).py)
test-plain: $(VENV)/.ready ## test reading, writing and training by Ray's public ways alone
	RAY_LANCE_PLAIN_RAY=1 $(BIN)/python -m pytest -q --durations 15 -m "not slow" $(PLAIN)

# Both ends of the releases that are supported, each in a venv of its own; no part of CI. PYTHON=python3.10 is the lowest
# Python. TORCH=torch==2.4.0 is the lowest torch, and not the default: from PyPI it brings gigabytes of CUDA libraries.
TORCH ?= torch==2.13.0

.venv-floors/.ready: pyproject.toml constraints-floors.txt
	$(PYTHON) -m venv .venv-floors
	.venv-floors/bin/python -m pip install --quiet --constraint constraints-floors.txt $(TORCH) --editable '.[test]'
	@touch $@

.venv-latest/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-latest
	.venv-latest/bin/python -m pip install --quiet $(TORCH) --editable '.[test]'
	@touch $@

test-floors: .venv-floors/.ready ## test reading, writing and training on the lowest releases that are supported
	.venv-floors/bin/python -m pytest -q --durations 15 -m "not slow" $(PLAIN)

test-latest: .venv-latest/.ready ## test the same on the newest releases
	.venv-latest/bin/python -m pytest -q --durations 15 -m "not slow" $(PLAIN)

lint: $(VENV)/.ready ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready ## bring the code into style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.ready ## compare with the peers, up to ten minutes for each question; writes results and the page of them
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@for bench in benchmarks/*/bench.py; do echo "== $$bench"; $(BIN)/python $$bench || exit 1; done
	$(BIN)/python benchmarks/page.py

clean: ## remove the set-up and everything that was built
	rm -rf $(VENV) .venv-floors .venv-latest build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
