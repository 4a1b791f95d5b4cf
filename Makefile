# make demo    train both models on real proteins, a report under runs/demo/
# make test    lint, types, and all tests, with the notebooks and the golden vectors
# make check   lint, types, and the quick tests of what you have changed; `make check BASE=main` since main
# make lint    ruff and mypy alone          make parity   the golden vectors alone
# make docs    the documentation, with warnings as errors, into site/
# make format  rewrite the code as `make lint` wants it
#
# Each makes the virtual environment first when it is missing or older than the list of dependencies: .venv with
# the newest suitable Python on PATH. `make test PYTHON=python3.11` uses that Python, in .venv-3.11.

PYTHON ?=
VENV ?= .venv$(if $(PYTHON),-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null))
VENV := $(VENV)
BIN := $(VENV)/bin
READY := $(VENV)/.installed
TORCH := $(VENV)/.torch
DOCS := $(VENV)/.docs
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
VECTORS ?= tests/golden
# Two workers; a file stays with one of them, because what its tests share takes long to make.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

# Without compiling every module that nobody imports: half of the time.
PIP_ARGS := --quiet --disable-pip-version-check --no-compile

# What is imported is compiled once and kept in the environment, also where the shell asks Python to keep nothing: the
# tests start many processes, and each would compile all that it imports.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX ?= $(abspath $(VENV))/bytecode

BASE ?= HEAD

.PHONY: demo check test lint parity docs format

demo: $(READY)
	$(BIN)/python -m experiments.demo

check: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $$($(BIN)/python -m tests.changed $(BASE))

test: lint docs $(TORCH)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

parity: $(READY)
	$(BIN)/python -m experiments.parity --vectors $(VECTORS)

# Fails for a page that links to nothing, a name without a docstring's object, and numbers that are not the results'.
docs: $(DOCS)
	$(BIN)/python -m experiments.docs --check
	$(BIN)/zensical build --strict --clean

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A name on PATH may be a stub for a Python that is not there, so each candidate has to run.
$(READY): pyproject.toml requirements.txt
	@if ! $(BIN)/python -c '$(SUITABLE)' 2>/dev/null; then \
	  for candidate in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
	    if "$$candidate" -c '$(SUITABLE)' 2>/dev/null; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "No suitable Python: $(if $(PYTHON),$(PYTHON) is no,none on PATH is a) working Python 3.11, 3.12 or 3.13" \
	      "with venv and ensurepip; install one, or name it with PYTHON=/path/to/python." >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$("$$found" --version)."; \
	  "$$found" -m venv --clear $(VENV) || exit 1; \
	fi
	@echo "Installing partoken_jax and its dependencies into $(VENV); the first time takes a few minutes."
	@$(BIN)/python -m pip install $(PIP_ARGS) --editable '.[test]'
	@touch $@

$(DOCS): $(READY)
	@$(BIN)/python -m pip install $(PIP_ARGS) --editable '.[docs]'
	@touch $@

# PyTorch is large, and only tests and comparisons need it. It comes after the rest, so that `make -j` never has two
# installations in one environment at once.
$(TORCH): $(DOCS)
	@$(BIN)/python -m pip install $(PIP_ARGS) --editable '.[torch]'
	@touch $@
