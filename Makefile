# `make demo` and `make test` set up what they need in .venv, on a machine with Python, pip and make.
PYTHON ?= python3
PYTEST = $(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test test-slow lint style types docs clean

demo: $(READY)  ## train, sample and judge a small MaskGIT; writes demo/report.html
	$(BIN)/unmask demo --out demo

test: $(READY)  ## the default test suite
	$(PYTEST)

test-slow: $(READY)  ## the tests marked slow
	$(PYTEST) -m slow

lint: style types

style: $(READY)
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples

types: $(READY)
	$(BIN)/mypy

docs: $(READY)  ## the site, in docs/_build; a warning is an error
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -q -j auto -b html docs docs/_build

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,dcae]'
	touch $@

clean:  ## everything that the targets above made
	rm -rf $(VENV) demo docs/_build docs/api
