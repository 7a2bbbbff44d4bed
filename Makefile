# One virtual environment and one DAGSTER_HOME, both in this folder and ignored by git.
# Another Python: make demo PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One stamp per extra of pyproject.toml: a target installs only the extras that are still missing.
SERVING := $(VENV)/.installed-serving
DEV := $(VENV)/.installed-dev
STUDIES := $(VENV)/.installed-studies
MODULE := tsfm_pipeline.definitions
FLEET ?= demo
# Records that an earlier release kept among tables and reports; `clean` keeps them until a run or a
# command moves them to data/records.
OLD_RECORDS := ! -name experiment_ledger.parquet ! -path '*/recommendation_history/*' ! -path '*/raw/prometheus-*' ! -path '*/.pretraining/run/*'
BENCHMARKS := fleet_generation reading forecast_grid request_latency cuda pipeline gaps smoothing service

# Two workers with one thread each are faster than shared cores. Tests start many processes, which
# compile every module again where the environment forbids to keep what is compiled.
TESTS := OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadscope

export DAGSTER_HOME ?= $(CURDIR)/.dagster
export DAGSTER_DISABLE_TELEMETRY ?= yes

.PHONY: demo fleet test test-slow check light-tests coverage studies ui bench docs wheel lint format tables-lock studies-lock replay clean forget
.SECONDARY:

demo: $(SERVING) $(DAGSTER_HOME)/dagster.yaml  ## the whole chain on the demo fleet, to a finished report
	$(MAKE) --no-print-directory fleet FLEET=demo

fleet: $(SERVING) $(DAGSTER_HOME)/dagster.yaml  ## the whole chain on one fleet: make fleet FLEET=smd
	$(BIN)/tsfm-pipeline run $(FLEET)

test: $(DEV)  ## the test suite
	$(TESTS)

test-slow: $(DEV)  ## the tests that `make test` leaves out: they need a server or root, or take over 20 s each
	$(TESTS) -m slow

studies: $(STUDIES)  ## the environment of the studies

ui: $(SERVING) $(DAGSTER_HOME)/dagster.yaml  ## the Dagster UI on http://localhost:3000
	$(BIN)/dagster dev -w workspace.yaml

bench: $(DEV)  ## every benchmark at a quick size, one JSON object each; full sizes and results: docs/performance.md
	@for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py --quick || exit 1; done

check:  ## the fast lane, in under a minute: the linters, and in parallel the light tests that need no materialised run
	$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint light-tests

light-tests: $(DEV)
	$(TESTS) -m "not slow and not run and not heavy"

coverage: $(DEV)  ## `make test` with line coverage of the package; coverage below the limit is an error
	$(TESTS) -m "not slow" --cov --cov-report=term:skip-covered

docs: $(DEV)  ## the documentation as a site, to site/index.html; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel:  ## build the wheel, install it into an empty environment, and test it there
	PYTHON=$(PYTHON) ./.ci/wheel

lint: $(DEV)  ## ruff, mypy, import contracts, Dagster's own check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/dg check defs

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tables-lock: $(DEV)  ## update tables.lock after a version was raised; equal content: ARGS='--equal-content TABLE --reason "why"'
	$(BIN)/python -m tsfm_pipeline.steps.lock_tables $(ARGS)

studies-lock: $(DEV)  ## the same for the tables of a study: make studies-lock STUDY=direction
	@[ "$(origin STUDY)" = "command line" ] || { echo "name the study: make studies-lock STUDY=<direction, policy_search or time_r1>" >&2; exit 2; }
	$(BIN)/python -m tsfm_pipeline.studies.$(STUDY).lock_tables $(ARGS)

replay: $(STUDIES)  ## make a recorded run of the study time_r1 again and compare its digests: make replay HASH=3f9c
	@[ "$(origin HASH)" = "command line" ] || { echo "name the run: make replay HASH=<how its hash begins> (tsfm-pipeline time-r1 runs lists them)" >&2; exit 2; }
	$(BIN)/tsfm-pipeline time-r1 replay $(HASH)

clean:  ## delete all that can be made again: environment, Dagster's storage, tables, reports, logs; never data/records
	rm -rf $(VENV) .dagster site
	@for folder in data/lake data/logs data/reports data/serving data/cheap; do \
	  [ ! -d $$folder ] || { find $$folder ! -type d $(OLD_RECORDS) -delete; find $$folder -depth -type d -empty -delete; }; \
	done

forget: $(SERVING)  ## delete the records of one fleet, which cannot be made again; asks first: make forget FLEET=smd
	@[ "$(origin FLEET)" = "command line" ] || { echo "name the fleet: make forget FLEET=<name>" >&2; exit 2; }
	$(BIN)/tsfm-pipeline fleet forget $(FLEET)

$(VENV)/.installed-%: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	touch $@

$(DAGSTER_HOME)/dagster.yaml: dagster.yaml
	mkdir -p $(DAGSTER_HOME)
	cp dagster.yaml $@
