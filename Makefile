# The project's commands. Everything runs in .venv; nothing is installed elsewhere.
PYTHON ?= python3
BIN := .venv/bin
PROTO := gateway/serving/grpc
PROTO_OUT ?= $(PROTO)

.PHONY: setup demo serve test test-services check fix bench chaos proto

setup: .venv/.done

.venv/.done: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[convert,demo,dev,grpc,notices,tracing]'
	touch $@

demo: setup
	$(BIN)/headgate demo

serve: setup
	$(BIN)/headgate serve

test: setup
	$(BIN)/pytest -m 'not services'

test-services: setup
	$(BIN)/pytest -m services

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m loadtests.path

chaos: setup
	$(BIN)/python -m loadtests.chaos

proto:  # a pool of its own, so that another library may know the protocol's messages in the same process
	$(BIN)/python -m grpc_tools.protoc -I$(PROTO) --python_out=$(PROTO_OUT) --pyi_out=$(PROTO_OUT) $(PROTO)/inference.proto
	sed -i 's/_descriptor_pool.Default()/_descriptor_pool.DescriptorPool()/' $(PROTO_OUT)/inference_pb2.py
