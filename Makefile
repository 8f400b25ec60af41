# Every target does all the set-up on a fresh machine: a virtual environment in .venv, and what pyproject.toml names.
PYTHON ?= python3
PROJECT ?= cifar10
VENV := .venv

.PHONY: train test slow check format clean

train: $(VENV)/.installed  ## train PROJECT on whatever data is at hand (FLAGS="--max_epochs 4 ..." to change the run)
	$(VENV)/bin/python -m projects.$(PROJECT).train $(FLAGS)

test: $(VENV)/.installed-dev  ## the default tests: under 6 minutes on two cores
	$(VENV)/bin/python -m pytest -q

slow: $(VENV)/.installed-dev  ## the tests that take minutes each
	$(VENV)/bin/python -m pytest -q -m slow -n 0

check: $(VENV)/.installed-dev  ## lint, format and types
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

format: $(VENV)/.installed-dev  ## sort imports, wrap lines
	$(VENV)/bin/ruff check --select I --fix . && $(VENV)/bin/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@ $(VENV)/.installed

clean:  ## remove the virtual environment; runs/ stays
	rm -rf $(VENV)
