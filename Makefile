# One environment in .venv, made from pyproject.toml and the known-good versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST_ARGS ?=

.PHONY: demo test suite lint bench docs clean

demo: $(VENV)/.core  ## the main job on scikit-learn's digits: table, figure and page in demo-output/
	$(BIN)/python -m experiments.demo

test: lint suite  ## lint and the suite but for tests marked slow or release; PYTEST_ARGS="-m 'not release'" adds the slow ones, -m '' all

suite: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(VENV)/.test  ## format, lint and types
	$(BIN)/pre-commit run --all-files

bench: $(VENV)/.bench  ## speed against PyTorch and its libraries, as ratios within one run
	$(BIN)/python -m experiments.speed

docs: $(VENV)/.docs  ## the documentation site in build/site, built strictly and checked
	$(BIN)/python -m experiments.site

clean:
	rm -rf $(VENV) .venv-newest .cache build dist demo-output bench-output accelerator-output .pytest_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "a2d_jax needs Python 3.11 or newer; run: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing a2d_jax into $(VENV) (a minute or two the first time)"
	$(INSTALL) --editable ".[report,train]"
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing a2d_jax with the test extra into $(VENV) (a few minutes the first time)"
	$(INSTALL) --editable ".[test]"
	@touch $@ $(VENV)/.core

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable ".[docs]"
	@touch $@

# torchattacks asks for a version of requests from 2021 and for torchvision, and needs neither
$(VENV)/.bench: $(VENV)/.test
	$(INSTALL) --editable ".[bench]"
	$(INSTALL) --no-deps torchattacks==3.5.1
	@touch $@

