# Two commands do all the set-up on a fresh machine: make demo, make test.

PYTHON ?= $(shell for p in python3 python3.11 python3.12; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
INSTALL := $(BIN)/pip install --disable-pip-version-check -c constraints.txt

.PHONY: help demo test test-slow test-matrix reliability bench lint results clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(VENV)/installed ## train, translate and score on the corpus this repository makes itself
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/grammar/demo.sh

test: $(VENV)/installed-test ## run the test suite
	$(PYTEST)

test-slow: $(VENV)/installed-test ## run the tests that take minutes
	$(PYTEST) -m slow

test-matrix: ## run the tests that every version must pass on each Python of this machine
	@bash scripts/test_matrix.sh

# MODEL=FOLDER names a model folder of Multi30k for the tests of numbers
reliability: $(VENV)/installed-test ## measure the figures of docs/reliability.md
	rm -f docs/measured/reliability.json
	$(BIN)/python -m pytest -m "slow or not slow" --promises docs/measured/reliability.json --fuzz-lines 10000 \
		--soak-seconds 600 $(if $(MODEL),--model $(MODEL)) $(addprefix tests/test_,$(addsuffix .py,\
		checkpoints divergence faults lines load model numbers))
	$(MAKE) results

bench: $(VENV)/installed-bench ## measure speed against fairseq's Transformer and CTranslate2
	$(BIN)/fairseq-resmlp bench --out docs/measured/speed.json
	$(MAKE) results

lint: $(VENV)/installed-test ## check the code with ruff
	$(BIN)/ruff check .

results: ## fill the tables of README and docs from JSON
	@python3 scripts/results.py

clean: ## remove the virtual environment and what the demo made
	rm -rf $(VENV) demo

$(VENV)/installed: setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found: install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing into $(VENV) with $(PYTHON). On Python 3.11 fairseq is built from source: about 3 minutes."
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch numpy cython setuptools wheel ninja
	# Built against the torch above: an isolated build would download a second one. With CUDA_HOME set, fairseq
	# looks for sources that its package lacks.
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
