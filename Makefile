# make run         boot the whole product on a virtual T640        make test       every test, the virtual machine's included
# make test-fast   no virtual machine, no exhaustive sweeps        make bench      every figure beside its rival's
# make faults      all seventy faults, docs/faults.md              make nix-check NIXPKGS=DIR   the Nix layer, evaluated
#
# Everything installs what it needs first (Debian 12 or newer, as root) and keeps it in .venv and .cache.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

IMAGE ?= standin
NIXPKGS ?=
VENV := .venv
PYTHON := $(VENV)/bin/python
SETUP := .cache/setup.stamp
DISTRIBUTIONS := agent/appliance-protocol agent/compliance-agent agent/network-scanner agent/local-portal agent/appliance-update central image/flash
SOURCES := $(wildcard agent/*/src) central/src image/flash/src
# Two workers a core, for much of a test is waiting; a file stays with one, because its fixtures (servers, networks) are
# dear.
PYTEST := $(PYTHON) -m pytest
WORKERS ?= $(shell expr 2 '*' $$(nproc))
# Stories on the machine go side by side, each with a machine and a clinic of its own: much of one is waiting, too.
MACHINES ?= 2
# What `make test` has of the faults on the machine and under the image's own systemd; `make faults` has all of them.
BAD_DAYS := $(addprefix tests/integration/test_,bad_day.py lifeline.py gate_in_container.py)

.PHONY: help setup run test test-fast static nix-check bench faults clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

setup: $(SETUP)

$(SETUP): requirements/debian.txt requirements/development.txt $(DISTRIBUTIONS:%=%/pyproject.toml)
	@mkdir -p .cache
	@bash requirements/setup $(VENV) $(DISTRIBUTIONS)
	@touch $@

run: $(SETUP)
	@PYTHONPATH=vm-tests exec $(PYTHON) -m t640 run --image "$(IMAGE)"

test: static
	HYPOTHESIS_PROFILE=full $(PYTEST) -m "not vm" -n $(WORKERS) --dist loadfile
	$(PYTEST) -m "vm and not thorough" -n $(MACHINES) --dist loadfile $(BAD_DAYS:%=--ignore=%)
	$(PYTEST) -m "vm and not thorough" -n $(MACHINES) --dist loadfile $(BAD_DAYS)

test-fast: static
	HYPOTHESIS_PROFILE=fast $(PYTEST) -m "not vm and not exhaustive" -n $(WORKERS) --dist loadfile

static: $(SETUP) nix-check
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy $(SOURCES) vm-tests/t640 benchmarks
	$(VENV)/bin/lint-imports --no-cache

nix-check:
	@NIXPKGS="$(NIXPKGS)" bash vm-tests/nixos/check

bench: $(SETUP)
	@PYTHONPATH=vm-tests:. $(PYTHON) -m benchmarks

# Every fault, on the simulated device and on the virtual T640; the table is made of what this run has shown. Everything
# on the machine, because a story without its steps that are no fault is none.
faults: $(SETUP)
	rm -f .cache/faults.json
	$(PYTEST) -m "fault or vm" -n $(MACHINES) --dist loadfile --boot-next --faults-results .cache/faults.json; status=$$?; \
	  $(PYTHON) -m tests.faults.table .cache/faults.json docs/faults.md; exit $$status

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
