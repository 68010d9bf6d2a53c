# The whole developer interface. `make help` lists the targets.
# Everything happens in .venv. A stamp is written when a set-up is complete; an interrupted one starts afresh.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_READY := $(VENV)/.ready-demo
DEV_READY := $(VENV)/.ready-dev
DOCS_READY := $(VENV)/.ready-docs
LABEL_READY := $(VENV)/.ready-label
UNFINISHED := $(VENV)/.unfinished
export OMP_NUM_THREADS ?= 2
# Threads that wait by spinning make small models many times slower on a busy machine.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help demo label test faults lint types format bench docs clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(DEMO_READY)  ## active learning on handwritten digits, beside random: a table, a curve, a saved model
	@$(BIN)/python -m torchloops run active_learning
	@echo "To type torchloops yourself: . $(BIN)/activate"

label: $(LABEL_READY)  ## label tiles of two photographs in the browser, while a model learns from you
	@$(BIN)/python -m torchloops run label_your_own

test: JOBS ?= 2
test: $(DEV_READY)  ## run every test, in two processes: JOBS=4 ARGS="-k resume"
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

faults: FAULTS_KILLS ?= 100
faults: $(DEV_READY)  ## kill runs at random and resume them, 100 times each: FAULTS_KILLS=1000 FAULTS_SEED=1 ARGS=...
	FAULTS_KILLS=$(FAULTS_KILLS) $(BIN)/python -m pytest tests/faults $(ARGS)

lint: $(DEV_READY)  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV_READY)  ## mend style and formatting where that is safe
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV_READY)  ## check types
	$(BIN)/mypy

bench: $(DEV_READY)  ## run the benchmarks, one after the other
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

docs: $(DOCS_READY)  ## build the pages into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -E -W --keep-going -q -b html docs docs/_build/html

clean:  ## remove the environment and what tools left behind; run folders stay
	rm -rf $(VENV) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache

define check_python
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "torchloops needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo not found)."; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
endef

# $(1): what to install. Sources are linked, not copied: only a change of pyproject.toml installs again.
define install
	@echo "Setting up $(VENV) with $(1); this takes 2 to 5 minutes, once."
	@$(PYTHON) -m venv $$(test ! -e $(UNFINISHED) || echo --clear) $(VENV) && touch $(UNFINISHED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '$(1)'
	@rm $(UNFINISHED)
endef

$(DEMO_READY): pyproject.toml
	$(check_python)
	$(call install,.[active-learning])
	@touch $@

$(DEV_READY): pyproject.toml
	$(check_python)
	$(call install,.[dev])
	@touch $(DEMO_READY) $(LABEL_READY) $@

$(LABEL_READY): pyproject.toml
	$(check_python)
	$(call install,.[label])
	@touch $@

$(DOCS_READY): pyproject.toml
	$(check_python)
	$(call install,.[docs])
	@touch $@
