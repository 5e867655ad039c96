# Every target makes what it needs: the virtual environment with the compiled extension (.venv),
# the guests for the tests (tests/guests/out, by toolchains in .guests).
# As root a target installs the Debian packages it lacks; otherwise it names them and stops.

# The distribution's interpreter first: others are often built without the optimisations that make
# it half as fast again.
PYTHON ?= $(shell /usr/bin/python3 -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14)' \
	2>/dev/null && echo /usr/bin/python3 || echo python3)
VENV   ?= .venv
APP    ?=
ARGS   ?=
BIN    := $(VENV)/bin

.PHONY: run test lint lint-ansible format bench soak soak-power guests test-arm64 test-lab test-image debs image clean

# The whole way on this machine: builds, pushes to a node's own registry, deploys, serves.
run: $(VENV)/.stamp
	@$(BIN)/python examples/run.py $(APP) $(ARGS)

# Files side by side, in their order: the long ones are in the middle.
test: $(VENV)/.stamp guests
	@.ci/packages test
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

soak: $(VENV)/.stamp guests
	@.ci/packages test
	EDGE_SOAK=full $(BIN)/pytest -s tests/soak tests/fleet $(ARGS)

# Sixty power cuts of a virtual machine; `make test-lab` makes six. Root, and the better part of an hour.
soak-power: $(VENV)/.stamp guests
	@.ci/packages test
	@.ci/packages lab
	EDGE_SOAK=full $(BIN)/pytest -s tests/lab/test_soak_power*.py $(ARGS)

lint: $(VENV)/.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The collection by its linter, which brings an Ansible of its own.
LINTER := .venv-ansible
lint-ansible: $(LINTER)/.stamp
	@$(LINTER)/bin/ansible-galaxy collection install ./ansible -p $(LINTER)/collections --force >/dev/null
	cd ansible && PATH=../$(LINTER)/bin:$$PATH ANSIBLE_COLLECTIONS_PATH=$(CURDIR)/$(LINTER)/collections \
		ansible-lint --offline

$(LINTER)/.stamp:
	$(PYTHON) -m venv $(LINTER)
	$(LINTER)/bin/pip install --quiet --disable-pip-version-check ansible-lint==26.10.1 ansible-core==2.19.14
	@touch $@

format: $(VENV)/.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.stamp guests
	@.ci/packages bench
	$(BIN)/python tests/bench/run.py $(ARGS)

guests:
	@.ci/packages build "$(PYTHON)"
	@$(PYTHON) tests/guests/build.py

test-arm64: $(VENV)/.stamp
	@.ci/packages arm64
	$(BIN)/python tests/arm64/run.py $(ARGS)

# Machines with real systemd, of Debian 12 and 13: minutes, and root.
test-lab: $(VENV)/.stamp guests lint-ansible
	@.ci/packages test
	@.ci/packages lab
	$(BIN)/pytest tests/lab $(ARGS)

# What an image is made of, and machines that boot it: builds packages and images where there are none. Root.
test-image: $(VENV)/.stamp guests
	@.ci/packages test
	@.ci/packages image
	@ls dist/edge_*+deb13_*.deb >/dev/null 2>&1 || $(MAKE) --no-print-directory debs ARGS="--suite trixie"
	EDGE_IMAGE=full $(BIN)/pytest tests/image $(ARGS)

# The Debian packages, into dist/: ARGS="--suite trixie --arch arm64" builds one. Needs root.
debs: $(VENV)/.stamp
	@.ci/packages debs
	@PYTHON=$(BIN)/python image/build-debs.sh $(ARGS)

# An image for a card or a virtual machine, into dist/: ARGS="--board vm-amd64". Needs root.
image:
	@.ci/packages image
	@image/build.sh $(ARGS)

clean:
	rm -rf .venv .venv-* .guests .arm64 .machines build dist tests/guests/out *.egg-info
	find edge -name '*.so' -delete
	find $(addprefix edge/,application engine invocation triggers wasi) -name '*.c' -delete

# Extensions are compiled by the editable installation, so their sources are prerequisites as well.
EXTENSION := $(wildcard edge/engine/*.pyx edge/engine/*.pxi edge/engine/*.h) $(shell find edge -name '*.pxd') \
	$(shell sed -n 's/.*sources = \["\(.*\.py\)"\].*/\1/p' pyproject.toml)

$(VENV)/.stamp: pyproject.toml $(EXTENSION)
	@.ci/packages build "$(PYTHON)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[broker,dev,traces]'
	@touch $@
