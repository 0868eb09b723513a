# What a newcomer and a developer run; `make help` lists it.
#   make demo TORCH=cpu            the small build of torch, for Linux without GPU (say so at the first call)
#   make test PYTHON=python3.12    another Python than the newest one in range
#   make test ARGS="-k grad_cam"   options for pytest
#   make test JOBS=1               that many processes; one per core is usual

VENV ?= .venv
TORCH ?=
ARGS ?=
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

bin := $(VENV)/bin
usable := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
candidates := python3.13 python3.12 python3.11 python3
PYTHON ?= $(firstword $(foreach p,$(candidates),$(shell $(p) -c '$(usable)' 2>/dev/null && echo $(p))))

ifeq ($(TORCH),cpu)
torch := --extra-index-url https://download.pytorch.org/whl/cpu
else ifneq ($(TORCH),)
$(error TORCH=$(TORCH) is unknown: say TORCH=cpu for the build without CUDA, or leave it out)
endif
install = "$(bin)/python" -m pip install --disable-pip-version-check --constraint constraints.txt $(torch) --editable

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo environment test lint types check docs coverage wheel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.vaex ## install vaex into .venv, train a beta-VAE on drawn sprites, test it, say where its report is
	"$(bin)/vaex" train experiment=demo

environment: $(VENV)/.vaex-dev ## install vaex and the developer tools into .venv

# Tests start many processes: without bytecode each compiles vaex anew, whatever the shell's setting is for.
test: $(VENV)/.vaex-dev ## run the fast tests in the same environment
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 "$(bin)/python" -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: $(VENV)/.vaex-dev ## check style and formatting
	"$(bin)/python" -m ruff check .
	"$(bin)/python" -m ruff format --check .

types: $(VENV)/.vaex-dev ## check types, strictly
	"$(bin)/python" -m mypy

check: lint types test ## lint, types and test: before every commit

docs: $(VENV)/.vaex-dev ## build the documentation site into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 "$(bin)/python" -m mkdocs build --strict
	@echo "site/index.html"

coverage: $(VENV)/.vaex-dev ## run fast and slow tests, show the lines that none of them reached
	"$(bin)/python" -m pytest -m "not gpu" --cov --cov-report=term --cov-report=html $(ARGS)

wheel: $(VENV)/.vaex-dev ## build the source distribution, and the wheel from it, into dist/
	"$(bin)/python" -m build --no-isolation

clean: ## remove .venv, builds and caches; runs and data stay
	rm -rf "$(VENV)" build dist site htmlcov .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find conf docs tests vaex -type d -name __pycache__ -prune -exec rm -rf {} +

# .vaex and .vaex-dev say that an installation was finished; a newer pyproject.toml or constraints.txt repeats it.
$(bin)/python:
	@python="$(PYTHON)"; "$${python:-false}" -c '$(usable)' 2>/dev/null || { echo "vaex needs Python 3.11, 3.12 or 3.13 \
	with venv (on Debian and Ubuntu: apt install python3 python3-venv); name another with make PYTHON=..." >&2; exit 1; }; \
	set -x; "$$python" -m venv --clear "$(VENV)"

$(VENV)/.vaex: pyproject.toml constraints.txt | $(bin)/python
	$(install) .
	@touch $@

$(VENV)/.vaex-dev: pyproject.toml constraints.txt | $(bin)/python
	$(install) ".[dev]"
	@touch $(VENV)/.vaex $@
