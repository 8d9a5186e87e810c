# Everything a contributor runs. From a fresh clone, `make demo` and `make test`
# make their own environment; a second call finds it ready.

# The torch whose source generated/ is made from.
PINNED_TORCH := 2.13.0
TORCH  ?= $(PINNED_TORCH)
PYTHON ?= python3
ARGS   ?=

# .venv, or .venv-torch-2.15.0, .venv-python3.12, .venv-torch-2.15.0-python3.12
VENV := .venv$(if $(filter-out $(PINNED_TORCH),$(TORCH)),-torch-$(TORCH))$(if \
	$(filter-out python3,$(PYTHON)),-$(subst /,-,$(PYTHON)))
PY   := $(VENV)/bin/python
PIP  := PIP_DISABLE_PIP_VERSION_CHECK=1 $(PY) -m pip install -q
PINS := pyproject.toml .ci/constraints.txt

# The tensors here are small: threads cost more than they gain, most of all beside xdist.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint docs bench regenerate format setup clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "make test TORCH=2.15.0      the tests on another torch, in an environment of its own"
	@echo "make test PYTHON=python3.12 everything on another Python, likewise"
	@echo "make test ARGS='-k nadam'   arguments for pytest"

demo: $(VENV)/.demo ## compile NAdam, then learn its learning rate on handwritten digits
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT \
	&& cp -R higher codegen templates generated "$$tmp" && rm -f "$$tmp/generated/nadam.py" \
	&& (cd "$$tmp" && "$(CURDIR)/$(PY)" -m codegen torch.optim.NAdam) \
	&& echo && PYTHONPATH="$$tmp" $(PY) examples/learn_lr.py

# Types, layout and --check speak of the pinned torch only.
test: $(if $(filter $(PINNED_TORCH),$(TORCH)),lint) $(VENV)/.dev ## formatter, types, generated code up to date, tests
	$(PY) -m pytest $(ARGS)

lint: $(VENV)/.dev ## the first three of these
	$(PY) -m black --check --quiet . || { echo "run: make format" >&2; exit 1; }
	$(PY) -m mypy
	$(PY) -m codegen --check

docs: $(VENV)/.docs ## the site, into build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --config-file .ci/mkdocs.yml
	@echo "open build/site/index.html"

bench: $(VENV)/.bench ## the benchmarks
	$(PY) -m benchmarks $(ARGS)

regenerate: $(VENV)/.demo ## every file of generated/, from the installed torch
	$(PY) -m codegen --all

format: $(VENV)/.dev ## lay out the code
	$(PY) -m black .

setup: $(VENV)/.dev ## the environment alone

clean: ## remove environments, caches and builds
	rm -rf .venv* .hypothesis .mypy_cache .pytest_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments: a stamp per layer, so that the demo does not wait for the tests' tools.

$(VENV)/.torch-$(TORCH):
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found; name a Python: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); 3.10 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "making $(VENV) with torch $(TORCH) (once; minutes)"
	@$(PYTHON) -m venv --clear $(VENV)
	@# First and alone: whatever else names torch would take the newest.
	@$(PIP) torch==$(TORCH)
	@touch $@

$(VENV)/.demo: $(VENV)/.torch-$(TORCH) $(PINS)
	@echo "installing what translating needs"
	@$(PIP) torch==$(TORCH) -c .ci/constraints.txt -e '.[codegen,examples]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "installing what the tests need"
	@$(PIP) torch==$(TORCH) -c .ci/constraints.txt -e '.[codegen,examples,dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.demo
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "the site's tools need Python 3.11 or newer: make docs PYTHON=python3.12" >&2; exit 1; }
	@echo "installing what the site needs"
	@$(PIP) torch==$(TORCH) -c .ci/constraints.txt -e '.[codegen,examples,docs]'
	@touch $@

# TorchOpt has wheels for some Pythons only.
$(VENV)/.bench: $(VENV)/.dev
	@$(PIP) torch==$(TORCH) torchopt==0.7.3 || echo "TorchOpt can't be installed: measuring without it" >&2
	@touch $@
