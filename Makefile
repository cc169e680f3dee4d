# Two commands do all the set-up on a fresh machine: make demo, make test.

PYTHON ?= $(shell for p in python3 python3.11 python3.12; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
INSTALL := $(BIN)/pip install --disable-pip-version-check -c constraints.txt

.PHONY: help demo test test-slow test-matrix reliability bench lint format tables build clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(VENV)/installed ## train, translate and score on a corpus that this repository generates
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/grammar/demo.sh

test: $(VENV)/installed-test ## run the fast tests
	$(PYTEST)

test-slow: $(VENV)/installed-test ## run the tests that take minutes
	$(PYTEST) -m slow

test-matrix: ## run the tests that every version must pass, on each supported Python of this machine
	@bash scripts/test_matrix.sh

# MODEL=DIRECTORY specifies a Multi30k model directory for the tests of batch invariance
reliability: $(VENV)/installed-test ## measure the figures of docs/reliability.md
	rm -f docs/measured/reliability.json
	$(BIN)/python -m pytest -m "slow or not slow" --promises docs/measured/reliability.json --fuzz-lines 10000 \
		--soak-seconds 600 $(if $(MODEL),--model $(MODEL)) tests/robustness \
		tests/unit/fairseq_patches/test_divergence.py tests/unit/model/test_registration.py
	$(MAKE) tables

bench: $(VENV)/installed-bench ## compare speed with fairseq's Transformer and CTranslate2
	$(BIN)/python scripts/benchmark/bench.py --out docs/measured/speed.json
	$(MAKE) tables

lint: $(VENV)/installed-test ## check style, formatting, types and import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/installed-test ## format the code and sort its imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tables: ## regenerate the tables of README and docs from JSON
	@python3 scripts/update_tables.py

build: $(VENV)/installed-test ## build the sdist and the wheel
	$(BIN)/python -m build --no-isolation

clean: ## remove the virtual environment and the output of the demo
	rm -rf $(VENV) demo dist

$(VENV)/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or 3.12 not found: install one, or specify it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing into $(VENV) with $(PYTHON). On Python 3.11, fairseq is built from source, which takes about 3 minutes."
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch numpy cython setuptools wheel ninja
	# Built with the torch installed above: an isolated build would download a second one. If CUDA_HOME is set, fairseq's
	# build looks for sources that its package lacks.
	env -u CUDA_HOME $(INSTALL) --no-build-isolation -e .
	@touch $@

$(VENV)/installed-reproduce: $(VENV)/installed
	$(INSTALL) --no-build-isolation -e '.[reproduce]'
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(INSTALL) --no-build-isolation -e '.[test]'
	@touch $@

$(VENV)/installed-bench: $(VENV)/installed
	$(INSTALL) --no-build-isolation -e '.[bench]'
	@touch $@
