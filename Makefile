# The two commands of a newcomer:
#   make demo   the whole loop on this machine: pretrain, SFT, GRPO, and a table of what it learned
#   make test   every test, the linters, the types, the import layers
# Elsewhere than on a machine whose pip finds torch's CPU wheel: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Python compiles each file once, not in every actor.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup gym demo test lint bench clean

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

demo: setup
	$(BIN)/wutong demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
