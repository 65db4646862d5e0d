# What developers and visitors type. `make help` lists it.
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: help demo test test-fast test-e2e check format docs bench requirements clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: $(VENV)/.base  ## run the demo on real data; options: make demo ARGS="--keep"
	$(BIN)/modelplane demo $(ARGS)

test: $(VENV)/.dev $(VENV)/.mlflow $(VENV)/.prometheus  ## set up, then run all tests: the fast ones, then the end-to-end ones
	$(BIN)/python tools/run_tests.py

test-fast: $(VENV)/.dev  ## the fast tests only: three minutes on two cores
	$(BIN)/python tools/run_tests.py --fast

check: $(VENV)/.dev  ## types, style, floors of the architecture
	$(BIN)/ruff format --check src tests bench tools
	$(BIN)/ruff check src tests bench tools
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## put the code into its form
	$(BIN)/ruff check --fix src tests bench tools
	$(BIN)/ruff format src tests bench tools

docs: $(VENV)/.dev  ## write docs/commands and docs/resources from the code
	$(BIN)/python -m modelplane.cli.document

bench: $(VENV)/.dev  ## measure, and write bench/results.json with a table
	$(BIN)/python -m bench $(ARGS)

requirements: $(VENV)/.dev  ## resolve the dependencies anew (hashes, no addresses)
	$(BIN)/python tools/lock.py

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.base: requirements.txt pyproject.toml tools/setup.sh
	bash tools/setup.sh requirements.txt $@

$(VENV)/.mlflow: requirements-mlflow.txt tools/setup_mlflow.sh $(VENV)/.dev
	bash tools/setup_mlflow.sh $@

$(VENV)/.prometheus: tools/setup_prometheus.sh $(VENV)/.dev
	bash tools/setup_prometheus.sh $@

$(VENV)/.dev: requirements-dev.txt pyproject.toml tools/setup.sh
	bash tools/setup.sh requirements-dev.txt $@
