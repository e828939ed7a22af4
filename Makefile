# make demo     from nothing to generated digits, with every stage in between
# make test     the test suite
# make check    what CI runs: lint, types, architecture, tests
# make proto    the protobuf modules from their .proto file
# make lock     what the gateway's image holds, to the newest versions, with hashes
# make setup    the virtual environment and the local Triton (the others do it first)
# make clean    remove what these made

PYTHON ?= $(firstword $(foreach name,python3.12 python3.11 python3 python3.13,$(shell \
	command -v $(name) >/dev/null && $(name) -c 'import sys; assert sys.version_info >= (3, 11)' \
	2>/dev/null && echo $(name))))
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint check proto lock setup clean

demo: setup
	@$(BIN)/python examples/demo.py

test: setup
	$(BIN)/pytest -n 2 --dist loadgroup

check: lint test

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

proto: setup
	$(BIN)/python -m gan_serving.grpc_api.generate

LOCK := $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-annotate \
	--python-version 3.12 --python-platform x86_64-manylinux_2_28 --custom-compile-command 'make lock'

lock: setup
	echo onnxruntime-gpu | $(LOCK) --excludes - --extra serve --extra redis \
		pyproject.toml deploy/gateway.in -o deploy/requirements.lock
	echo 'hatchling>=1.27' | $(LOCK) - -o deploy/build.lock

setup: $(READY)

$(READY): pyproject.toml
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ganforge needs Python 3.11 or newer: make PYTHON=/path/to/python3 ..."; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || \
		{ echo "python3 -m venv failed: on Debian, apt-get install python3-venv"; exit 1; }
	@echo "Installing ganforge and what it needs into .venv: a few minutes the first time"
	@begin=$$(date +%s); \
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]' && \
	{ $(BIN)/ganforge triton install || echo "Going on without the local Triton."; } && \
	echo "Set up in $$(($$(date +%s) - begin)) s" && touch $(READY)

clean:
	rm -rf .venv demo .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
