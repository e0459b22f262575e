# `make help` lists the targets. Variables:
#   PYTHON       interpreter to create the environment with (default: python3.11, else the first that will do)
#   VENV         where the environment lies
#   COMFYUI_DIR  the ComfyUI to use (default: one that encloses this checkout, else 0.3.75, fetched once)
#   CHECKPOINT, ADAPTER  files for `make demo` with a real SDXL

VENV ?= .venv
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3.10 python3,\
	$(if $(shell $(p) -c 'import venv' 2>/dev/null && echo yes),$(p))))
RUN = $(VENV)/bin/python
PYTEST = $(RUN) -m pytest $(PYTEST_ARGS)
# A process for each core, four at most: each has a PyTorch, and a ComfyUI, of its own. Whole files, for their fixtures.
PARALLEL = OMP_NUM_THREADS=1 $(PYTEST) -n auto --maxprocesses 4 --dist loadfile

# On a machine with few cores, many threads in tiny matrix products only wait for each other.
export OMP_NUM_THREADS ?= 2
# Memory that the C library has once stays with the process: giving tens of megabytes back after every operation and
# asking for them again takes half of the time on some machines.
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= 1000000000000
export COMFYUI_DIR
export CHECKPOINT
export ADAPTER

.DEFAULT_GOAL := help
.PHONY: help set-up set-up-test demo test lint test-unit test-host test-server test-browser browser clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

set-up: ## environment and ComfyUI (other targets do this themselves)
	@$(PYTHON) scripts/set_up.py --venv $(VENV)

set-up-test:
	@$(PYTHON) scripts/set_up.py --venv $(VENV) --tests

demo: set-up ## render clips through a real ComfyUI server: outputs/demo/
	@$(RUN) -m sdxl_anime_video.demo.run

test: set-up-test browser lint ## lint and all rungs of the test ladder
	$(PARALLEL) tests/unit
	$(PARALLEL) tests/host
	$(PARALLEL) tests/server tests/browser

lint: set-up-test ## ruff and basedpyright
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m basedpyright --pythonpath $(RUN)

test-unit: set-up-test ## without ComfyUI
	$(PARALLEL) tests/unit

test-host: set-up-test ## ComfyUI in the test process
	$(PARALLEL) tests/host

test-server: set-up-test ## a real server over HTTP
	$(PARALLEL) tests/server

test-browser: set-up-test browser ## a real headless Chromium on a real server
	$(PYTEST) tests/browser

# Where we may, install the browser; where we may not, the browser tests say that they are skipped.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || [ -n "$$SAV_CHROMIUM" ] || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "Installing Chromium" && \
	  { apt-get -qq install -y --no-install-recommends chromium || \
	    { apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium; }; } >/dev/null 2>&1; } || \
	echo "No Chromium here: browser tests will be skipped"

clean: ## remove the environment, caches and outputs (the fetched ComfyUI stays in the cache)
	rm -rf $(VENV) outputs build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
