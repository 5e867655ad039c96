# Every target makes what it needs: the virtual environment with the compiled extension (.venv),
# the guests for the tests (tests/guests/out, by toolchains in .guests).
# As root a target installs the Debian packages it lacks; otherwise it names them and stops.

# The distribution's interpreter first: others are often built without the optimisations that make
# it half as fast again.
PYTHON ?= $(shell /usr/bin/python3 -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14)' \
	2>/dev/null && echo /usr/bin/python3 || echo python3)
VENV   ?= .venv
APP    ?= examples/thermostat
ARGS   ?=
BIN    := $(VENV)/bin

.PHONY: run test lint format bench soak guests test-arm64 clean

run: $(VENV)/.stamp
ifeq ($(APP),examples/thermostat)
	@echo "In a second terminal, once it serves:"
	@echo
	@echo "  mosquitto_sub -v -t 'alerts/#' &"
	@echo "  mosquitto_pub -q 1 -t sensors/kitchen/temperature -m 31.5"
	@echo "  mosquitto_pub -q 1 -t sensors/kitchen/temperature -m 19"
	@echo "  curl http://127.0.0.1:3000/"
	@echo
	@echo "Without the Debian package mosquitto-clients:"
	@echo
	@echo "  $(BIN)/amqtt_sub --url mqtt://127.0.0.1 -t 'alerts/#' 2>/dev/null &"
	@echo "  $(BIN)/amqtt_pub --url mqtt://127.0.0.1 -t sensors/kitchen/temperature -m 31.5"
	@echo
endif
	$(BIN)/edge up $(APP) --mqtt embedded $(ARGS)

test: $(VENV)/.stamp guests
	@.ci/packages test
	$(BIN)/pytest $(ARGS)

soak: $(VENV)/.stamp guests
	@.ci/packages test
	EDGE_SOAK=full $(BIN)/pytest -s tests/soak $(ARGS)

lint: $(VENV)/.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

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

clean:
	rm -rf .venv .venv-* .guests .arm64 build dist tests/guests/out *.egg-info
	rm -f edge/engine/*.so edge/engine/*.c

# The extension is compiled by the editable installation, so its sources are prerequisites as well.
EXTENSION := $(wildcard edge/engine/*.pyx edge/engine/*.pxi edge/engine/*.pxd edge/engine/*.h)

$(VENV)/.stamp: pyproject.toml $(EXTENSION)
	@.ci/packages build "$(PYTHON)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[broker,dev]'
	@touch $@
