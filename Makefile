# One virtual environment, one DAGSTER_HOME, both in this folder and ignored by git. Override: make demo PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODULE := tsfm_pipeline.definitions
FLEET ?= demo
BENCHMARKS := fleet_generation forecast_grid request_latency pipeline

export DAGSTER_HOME ?= $(CURDIR)/.dagster
export DAGSTER_DISABLE_TELEMETRY ?= yes

.PHONY: demo fleet test ui bench docs lint format clean

demo: $(STAMP) $(DAGSTER_HOME)/dagster.yaml  ## the whole chain on the demo fleet, to a finished report
	$(MAKE) --no-print-directory fleet FLEET=demo

fleet: $(STAMP) $(DAGSTER_HOME)/dagster.yaml  ## the whole chain on one fleet: make fleet FLEET=smd
	$(BIN)/python -m tsfm_pipeline.run $(FLEET)

test: $(STAMP)  ## the test suite, on two workers with one thread each: threads that share cores wait for each other
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

ui: $(STAMP) $(DAGSTER_HOME)/dagster.yaml  ## the Dagster UI on http://localhost:3000
	$(BIN)/dagster dev -w workspace.yaml

bench: $(STAMP)  ## every measurement at a quick size, one JSON object each; full sizes and what they gave: docs/performance.md
	@for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py --quick || exit 1; done

.PHONY: check coverage
check: lint  ## the fast lane: the linters, and the tests that need no materialised run
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow and not run"

coverage: $(STAMP)  ## `make test`, and the share of the package's lines that it reaches; too few are an error
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow" --cov --cov-report=term:skip-covered

docs: $(STAMP)  ## the documentation as a site, to site/index.html; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(STAMP)  ## ruff, mypy, import contracts, Dagster's own check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/dg check defs

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## everything that can be made again: environment, Dagster's storage, tables and reports
	rm -rf $(VENV) .dagster data/lake data/reports data/cheap site

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

$(DAGSTER_HOME)/dagster.yaml: dagster.yaml
	mkdir -p $(DAGSTER_HOME)
	cp dagster.yaml $@
