# Every target does its own set-up: Python 3.11+ and make are all that a machine needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV_READY := $(VENV)/.ready-dev
PROTOS := $(wildcard proto/helios/v1/*.proto)
PROTO_VENV := .venv-proto
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --upgrade

.PHONY: help setup demo test test-slow engines test-engines test-engines-slow chaos outage lint bench proto check-proto lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## the virtual environment with everything that Helios needs to run
	@echo "ready: . $(BIN)/activate && helios --help"

$(READY): requirements/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "helios needs Python 3.11 or newer; this is %s. Set PYTHON=/path/to/python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes --no-deps -r requirements/lock.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV_READY): $(READY) requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes --no-deps -r requirements/dev.txt
	@touch $@

demo: $(READY) ## an incident from its first line to its report, with the console
	$(BIN)/helios demo

test: $(DEV_READY) ## the quick tier: under two minutes
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: $(DEV_READY) ## what takes seconds each: the commands as processes, kill -9; and the property tests in full
	$(BIN)/python -m pytest -m "(slow or hypothesis) and not engines" --hypothesis-profile=full -n auto --dist worksteal

ENGINES := .engines/kafka/.ready

engines: $(ENGINES) ## the engines that tests run against, as far as they are not on the machine

.engines/kafka/.ready: tests/engines/kafka/pom.xml
	@command -v mvn >/dev/null || { echo "mvn brings Kafka's artifacts: install Maven and a JRE of 17 or newer"; exit 1; }
	mvn --quiet --batch-mode -f $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.engines/kafka
	@touch $@

test-engines: $(DEV_READY) $(ENGINES) ## against a real Kafka and PostgreSQL, which it starts itself
	$(BIN)/python -m pytest -m "engines and not slow" -n 2 --dist loadfile

test-engines-slow: $(DEV_READY) $(ENGINES) ## what takes minutes: three brokers that die in turn, parts as processes of their own, full disks, bad clients
	$(BIN)/python -m pytest -m "engines and slow"

chaos: $(DEV_READY) $(ENGINES) ## a hundred faults at random under load, on all parts at once; ARGS="--faults 30 --seed 7"
	$(BIN)/python -m tests.chaos $(ARGS)

outage: $(DEV_READY) $(ENGINES) ## Kafka away for ten minutes under load; ARGS="--seconds 60 --rate 2000"
	$(BIN)/python -m tests.chaos.outage $(ARGS)

lint: $(DEV_READY) ## style, types, and that the committed stubs match the protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typing
	$(BIN)/python -m pytest -q tests/architecture

bench: $(DEV_READY) ## the benchmarks, never part of the tests
	$(BIN)/python -m pytest tests/bench --benchmark-enable --benchmark-only --benchmark-columns=min,median,max,ops -W default

# $(1): where to
define generate
	$(PROTO_VENV)/bin/python -m grpc_tools.protoc -I proto --python_out=$(1) --mypy_out=quiet:$(1) \
		--plugin=protoc-gen-mypy=$(PROTO_VENV)/bin/protoc-gen-mypy $(PROTOS)
	$(PROTO_VENV)/bin/python -m grpc_tools.protoc -I proto --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) \
		--plugin=protoc-gen-mypy_grpc=$(PROTO_VENV)/bin/protoc-gen-mypy_grpc proto/helios/v1/service.proto
endef

proto: $(PROTO_VENV)/.ready ## generate the stubs with the lowest grpcio and protobuf that are supported
	$(call generate,proto)

check-proto: $(PROTO_VENV)/.ready ## fail when the committed stubs are not those of the protos
	@rm -rf $(PROTO_VENV)/stubs && mkdir $(PROTO_VENV)/stubs
	$(call generate,$(PROTO_VENV)/stubs)
	@cd $(PROTO_VENV)/stubs && for file in $$(find . -type f); do \
		cmp "$$file" "$(CURDIR)/proto/$$file" || { echo "the stubs are old: make proto, and commit them"; exit 1; }; done
	@echo "the stubs are those of the protos"

$(PROTO_VENV)/.ready: requirements/proto.txt
	$(PYTHON) -m venv $(PROTO_VENV)
	$(PROTO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/proto.txt
	@touch $@

lock: $(READY) ## pin every dependency anew, with hashes and without addresses
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(LOCK) --all-extras pyproject.toml requirements/build.in -o requirements/lock.txt
	$(LOCK) --group pyproject.toml:dev -c requirements/lock.txt -o requirements/dev.txt

clean: ## remove the virtual environments and caches
	rm -rf $(VENV) $(PROTO_VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
