# Ratchet's commands. `make quickstart` and `make test` set up what they need.
#
#   PYTHON=python3.12                another interpreter (3.11 or 3.12)
#   EXTRAS=gpu,dev                   what else to install; gpu brings bitsandbytes, bench TRL
#   BENCH=--quick                    what `make bench` measures: options of benchmarks/train.py
#   TORCH_INDEX=…                    package index to take torch from (docs/install.md)

PYTHON ?= python3
EXTRAS ?= dev
TORCH_INDEX ?=
BENCH ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install -qq --progress-bar off --constraint constraints/cpu.txt

comma := ,
READY := $(VENV)/.ready-$(subst $(comma),-,$(EXTRAS))

# DeepSpeed builds no operators: nothing here needs a compiler.
export DS_BUILD_OPS := 0

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-fast test-slow bench lint types ci

help:
	@echo 'make setup       install everything into $(VENV) (about 2.2 GB)'
	@echo 'make quickstart  run jobs/quickstart.yaml on a Ray of this machine'
	@echo 'make test        tests: the default tier, then those that start Ray'
	@echo 'make test-fast   tests: the default tier alone'
	@echo 'make test-slow   tests: whole runs, kills and comparisons'
	@echo 'make bench       training against TRL (hours; BENCH=--quick: minutes)'
	@echo 'make lint        ruff: rules and layout'
	@echo 'make types       mypy, strict'
	@echo 'make ci          all that continuous integration runs'

setup: $(READY)

$(READY): pyproject.toml constraints/cpu.txt
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { \
	    echo 'Ratchet needs Python 3.11 or 3.12 with its venv module; $(PYTHON) is not one.'; \
	    echo '  Name another: make PYTHON=python3.11 setup'; exit 1; }
	@echo 'setup 1/4: $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -qq --progress-bar off 'pip>=25' wheel setuptools==80.9.0
	@echo 'setup 2/4: torch 2.13.0'
	@$(INSTALL) torch==2.13.0 $(addprefix --extra-index-url ,$(TORCH_INDEX))
	@echo 'setup 3/4: deepspeed 0.19.8'
	@$(INSTALL) --no-build-isolation deepspeed==0.19.8
	@echo 'setup 4/4: Ray, Transformers, Ratchet [$(EXTRAS)]'
	@$(INSTALL) --editable '.[$(EXTRAS)]'
	@touch $@
	@echo 'setup done: $(BIN)/ratchet'

quickstart: setup
	$(BIN)/ratchet run jobs/quickstart.yaml

test: test-fast
	$(BIN)/pytest -m 'ray and not slow and not gpu'

test-fast: setup
	$(BIN)/pytest

test-slow: setup
	$(BIN)/pytest -m 'slow and not gpu'

bench:
	@$(MAKE) --no-print-directory setup EXTRAS=$(EXTRAS),bench
	$(BIN)/python -m benchmarks.train --out outputs/benchmarks.json $(BENCH)
	$(BIN)/python -m benchmarks.plot outputs/benchmarks.json outputs/benchmarks.svg

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

ci:
	bash .ci/run
