# Every target does the set-up that it needs (tools/setup.sh: quick when .venv is there).
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup run test test-all lint bench bench-gpu parity sentiment mutations ui repro stop

BIN := .venv/bin
ARGS ?=
PORT ?= 5000

# Nothing calls home. tasks/variables.py sets the same for commands that are started without make.
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false
export PREFECT_SERVER_ANALYTICS_ENABLED := false

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-9s %s\n", $$1, $$2 }'

setup:  ## .venv with the versions of constraints.txt (the other targets do this by themselves)
	@tools/setup.sh

run: setup  ## the whole pipeline; ARGS="--profile polite" or ARGS="--set seed=1" for another
	@$(BIN)/preflow run $(ARGS)

# A file a worker, so that what its tests share is made once; the long ones come first (tests/conftest.py).
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: setup  ## the tests, without the slow ones; ARGS="tests/rlhf -k masks" for some
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-all: setup  ## all tests, the slow ones too; those whose tools are absent are skipped with a reason
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "" $(ARGS)

lint: setup  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/mypy

parity: setup  ## losses and gradients beside TRL's, in environments of its own (2 GB); renews the table of docs/parity.md
	@bench/parity/run.sh

sentiment: setup  ## happy continuations beside TRL's, same budget, in its environment; renews the table of docs/verifiers.md
	@bench/sentiment/run.sh

bench: setup  ## speed and memory beside TRL's, in its environments; ARGS="--quick" (ten minutes), "--only dpo-tiny", "--show"
	@bench/speed/setup.sh
	@$(BIN)/python -m bench.speed $(ARGS)

bench-gpu: setup  ## what wants a GPU, with verdicts: SFT, sampler, GRPO's time, tests, TRL; rehearsed on a processor where there is none
	@bench/gpu/setup.sh
	@$(BIN)/python -m bench.gpu $(ARGS)

mutations: setup  ## break the library in one place at a time and see that a test fails; ARGS="clip" for some
	@OMP_NUM_THREADS=1 $(BIN)/python -m tools.mutations $(ARGS)

ui: setup  ## MLflow's pages on http://127.0.0.1:5000, Prefect's on :4200; PORT=5001 PREFECT_PORT=4201 for other ports
	@$(BIN)/preflow ui --port $(PORT) $(if $(PREFECT_PORT),--prefect-port $(PREFECT_PORT))

repro: setup  ## DVC alone, without Prefect: runs the stages whose inputs changed
	@PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro $(ARGS)

stop: setup  ## end the Prefect server of this project
	@$(BIN)/preflow stop
