# Everything sets itself up in .venv: Python 3.11 or newer, its venv module and
# make are all that the machine needs. The stamps make the second time quick.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
ARGS ?=
# One worker for what takes real time, one for what computes.
TWO = -n 2

.PHONY: demo test check bench simulate simulate-engine model chaos clean

demo: .venv/run.stamp
	@exec $(BIN)/licraft demo $(ARGS)

test: .venv/dev.stamp
	@$(BIN)/python -m pytest $(TWO) $(ARGS)

check: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy licraft tests
	$(BIN)/mypy -p benchmarks
	$(BIN)/python -m pytest -q tests/architecture

# Each benchmark that can be run answers one question: make bench QUESTIONS=http_stack
QUESTIONS ?= $(basename $(notdir $(shell grep -ls __main__ benchmarks/*.py)))

bench: .venv/dev.stamp
	@set -e; for question in $(QUESTIONS); do \
	  echo "== $$question"; $(BIN)/python -m benchmarks.$$question $(ARGS); done

# Whole pools under seeded faults, by default for ten minutes on all processors; for one seed:
# make simulate ARGS="--seeds 7 --trace".
simulate: .venv/dev.stamp
	@$(BIN)/python -m tests.simulation $(if $(ARGS),$(ARGS),--seeds 1:1000000 --minutes 10)

# The engine alone under seeded faults, by default 4,000 seeds: about 40 minutes on two cores.
simulate-engine: .venv/dev.stamp
	@$(BIN)/python -m licraft.testing.engine_simulation --servers 3 5 $(if $(ARGS),$(ARGS),--seeds 4000)

# The protocol, every state of it, with all rules and without each: needs spin and gcc.
model: .venv/dev.stamp
	@$(BIN)/python -m tests.model $(ARGS)

# Real servers that are killed, stopped, cut off, filled up and set to other times: scenarios for
# about 15 minutes, or --minutes 60 --seed 1 of everything at random, with a page to read. The
# cuts need Linux, root, iproute2 and nftables, the clocks Debian's package faketime.
chaos: .venv/dev.stamp
	@$(BIN)/python -m tests.chaos $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "licraft needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "setting up .venv" >&2
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "licraft needs Python's venv module (Debian: apt-get install python3-venv)" >&2; exit 2; }

.venv/run.stamp: setup.cfg pyproject.toml | .venv/bin/python
	@echo "installing licraft into .venv" >&2
	@$(INSTALL) -e .
	@touch $@

.venv/dev.stamp: setup.cfg pyproject.toml | .venv/bin/python
	@echo "installing licraft and its development tools into .venv" >&2
	@$(INSTALL) -e '.[dev]'
	@touch $@ .venv/run.stamp
