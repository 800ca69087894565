# Chainrule. `make` alone lists what there is. Python >= 3.11 and make are all it needs.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help install demo test quick full chaos up bench lint format clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  make %-9s %s\n", $$1, $$2}'

install: $(INSTALLED) ## create .venv with pinned dependencies and the project; quick when nothing changed

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up .venv (a minute or two, once) …"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(INSTALLED) ## train a real network with two workers and predict with it, everything on free ports
	@$(BIN)/python -P deploy/demo.py

test: $(INSTALLED) lint ## the tests that must always pass
	$(BIN)/python -P -m pytest -m "not slow"

quick: $(INSTALLED) ## unit tests, about 30 s
	$(BIN)/python -P -m pytest tests/unit -q

full: $(INSTALLED) lint ## all tests, the slow proofs included
	$(BIN)/python -P -m pytest --hypothesis-profile=explore

chaos: $(INSTALLED) ## 50 jobs in half an hour while something breaks every few seconds
	$(BIN)/python -P -m tests.faults.chaos

up: $(INSTALLED) ## the whole stack in the foreground, at http://127.0.0.1:8000
	@$(BIN)/chainrule up

bench: $(INSTALLED) ## measure against peers in the same run
	$(BIN)/python -P -m tests.benchmarks

lint: $(INSTALLED) ## formatter, linter and type checker
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and caches
	rm -rf .venv .bench .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
