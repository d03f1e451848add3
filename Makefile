# Every target makes .venv itself when it is missing or out of date. Needs git, make and Python 3.10 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format bench clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED)  ## make .venv with everything in it

$(INSTALLED): pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,demo,export,dev]'
	touch $@

demo: $(INSTALLED)  ## synthesise a corpus, pretrain, fine-tune with and without, transcribe (minutes)
	$(BIN)/python scripts/demo.py --out demo

test: $(INSTALLED)  ## the tests, with coverage
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --cov --cov-report=term:skip-covered --cov-fail-under=85

lint: $(INSTALLED)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## measure, train the recipes, write benchmarks/results/ (some hours on two cores)
	$(BIN)/python scripts/benchmark_features.py
	$(BIN)/python scripts/benchmark_ctc.py
	$(BIN)/python scripts/benchmark_ctc_training.py
	$(BIN)/python scripts/benchmark_pretraining.py
	$(BIN)/python scripts/benchmark_data_scale.py
	$(BIN)/python scripts/benchmark_recipes.py

clean:  ## remove what the targets made
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage*
