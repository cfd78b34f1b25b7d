# The project's commands. Everything runs in .venv; nothing is installed elsewhere.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo serve test test-services check fix bench chaos

setup: .venv/.done

.venv/.done: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[convert,demo,dev]'
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
