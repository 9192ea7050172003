# The two commands of a newcomer:
#   make demo   the whole loop on this machine: pretrain, SFT, GRPO, and a table of what it learned
#   make test   every test, the linters, the types, the import layers
# Elsewhere than on a machine whose pip finds torch's CPU wheel: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
# Python compiles each file once, not in every actor.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup gym bench-setup demo test lint bench bench-quick clean

setup: $(VENV)/ready

$(VENV)/ready: requirements-cpu.lock pyproject.toml
	@sh docker/check_machine.sh "$(PYTHON)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-cpu.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# What the extra reasoning-gym needs; one package of it is compiled, so a C compiler must be there.
gym: setup
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-gym.lock

# TRL, the contestant of benchmarks/steps.md, lives in an environment of its own: the engines are the same releases.
bench-setup: setup $(BENCH)/ready

$(BENCH)/ready: requirements-bench.lock
	@test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements-bench.lock
	@touch $@

demo: setup
	$(BIN)/wutong demo

# Every contestant, two sizes of model, short and long-tailed responses, three rounds: some two hours on two cores (estimated from parts).
# Policies are made once; what benchmarks/results/steps.json has already is kept and added to.
bench: bench-setup
	$(BIN)/python -m benchmarks.steps

# Four and a half minutes on two cores, once its policy is made: exit code 1 where a step became 15 % slower against the floor.
# `make bench-quick STORE=--store` keeps this machine's ratios to compare with.
bench-quick: setup
	$(BIN)/python -m benchmarks.quick $(STORE)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) $(BENCH) build *.egg-info .pytest_cache .ruff_cache .hypothesis
