# Each target makes what it needs: a virtual environment in .venv, from pyproject.toml and constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt

.PHONY: demo test chaos soak fuzz-messages fuzz-models test-arm64 check train bench clean help

help:                 ## what there is to make
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 12

demo: $(VENV)/.demo   ## stream five real minutes of ECG through the daemon, a broker and a subscriber
	$(BIN)/holdover demo

test: $(VENV)/.dev    ## the tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-arm64: $(VENV)/.dev ## quantized models on emulated 64-bit ARM (needs root, mmdebstrap, qemu-user-static)
	PYTHONPATH=. $(BIN)/python tests/arm64/run.py --json benchmarks/results/arm64.json

check: $(VENV)/.dev   ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

train: $(VENV)/.train ## train, validate and export the model in the box again, into models/ecg_rhythm/run (needs HOLDOVER_DATA)
	$(BIN)/python -m holdover.models.ecg_rhythm.train

chaos: $(VENV)/.dev   ## a thousand schedules of faults against daemon, broker and subscriber
	PYTHONPATH=. $(BIN)/python tests/chaos.py --json benchmarks/results/chaos.json

fuzz-models: $(VENV)/.dev ## 10,000 tampered model files through the gate (10 minutes)
	PYTHONPATH=. $(BIN)/python benchmarks/fuzz_models.py

fuzz-messages: $(VENV)/.dev ## 100,000 mutated MQTT messages through the subscriber
	PYTHONPATH=. $(BIN)/python benchmarks/fuzz_messages.py

soak: $(VENV)/.demo   ## a day of signal through the daemon, its broker killed twelve times (some minutes)
	$(BIN)/python benchmarks/soak.py

bench: $(VENV)/.train ## the benchmarks, peers in the same run; results in benchmarks/results/
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/replay.py
	$(BIN)/python benchmarks/cold.py
	$(BIN)/python benchmarks/quantize.py

clean:                ## remove the virtual environment and caches
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "holdover needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo $(VENV)/.dev $(VENV)/.train: $(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing holdover[$*] into $(VENV) (a minute or two the first time)"
	$(PIP) -e '.[$*]'
	@touch $@
