# Two commands do all the set-up on a fresh machine: make demo, make test.

# make demo PYTHON=python3.13 selects an interpreter. By default, an existing environment is kept as it is.
PYTHON ?= $(or $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; \
	done),python3)
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
INSTALL := @$(PYTHON) scripts/install.py --venv $(VENV) $(if $(filter file,$(origin PYTHON)),--keep) --extras=
COMMA := ,
# torch says so when fairseq is imported, before the plugin can filter it.
FILTER := ignore:`torch.jit.script` is deprecated
export PYTHONWARNINGS := $(if $(findstring $(FILTER),$(PYTHONWARNINGS)),$(PYTHONWARNINGS),$(if \
	$(PYTHONWARNINGS),$(PYTHONWARNINGS)$(COMMA))$(FILTER))

.PHONY: help install demo test test-slow test-matrix reliability bench lint format tables results build clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

install: ## install into .venv; EXTRAS=server,report adds optional dependencies
	$(INSTALL)$(EXTRAS)

demo: ## train, translate and score on a corpus that this repository generates
	$(INSTALL)
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/grammar/demo.sh

test: ## run the fast tests
	$(INSTALL)test
	$(PYTEST)

test-slow: ## run the tests that take minutes
	$(INSTALL)test
	$(PYTEST) -m slow --durations 20

test-matrix: ## run the tests that every version must pass, on each supported Python of this machine
	@bash scripts/test_matrix.sh

# MODEL=DIRECTORY specifies a Multi30k model directory for the tests of batch invariance
reliability: ## measure the figures of docs/reliability.md
	$(INSTALL)test
	rm -f docs/measured/reliability.json
	$(BIN)/python -m pytest -m "slow or not slow" --promises docs/measured/reliability.json --fuzz-lines 10000 \
		--soak-seconds 600 $(if $(MODEL),--model $(MODEL)) tests/robustness \
		tests/fairseq_cli/test_fairseq_commands.py tests/unit/fairseq_patches/test_divergence.py tests/unit/model/test_registration.py
	$(MAKE) tables

bench: ## measure the speed of this machine for docs/performance.md (50 minutes)
	$(INSTALL)bench
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/benchmark/run_all.sh
	$(MAKE) results

lint: ## check style, formatting, types and import layers
	$(INSTALL)test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: ## format the code and sort its imports
	$(INSTALL)test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tables: ## regenerate the tables of README and docs from JSON
	@python3 scripts/update_tables.py

results: tables ## regenerate the tables and the pictures from JSON
	$(INSTALL)report
	$(BIN)/python scripts/draw_pictures.py

build: ## build the sdist and the wheel
	$(INSTALL)test
	$(BIN)/python -m build --no-isolation

clean: ## remove the virtual environment and the output of the demo
	rm -rf $(VENV) demo dist
