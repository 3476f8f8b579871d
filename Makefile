# `make demo` and `make test` do all the set-up they need, once: a virtual environment in .venv.
PYTHON ?= python3.11
export WANDB_MODE ?= offline
# spinning threads slow each other down on a busy machine
export OMP_WAIT_POLICY ?= PASSIVE

BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint clean
demo: $(STAMP)
	$(BIN)/tsgen fit --config demo
	$(BIN)/tsgen test --config demo
	$(BIN)/tsgen predict --config demo
	$(BIN)/tsgen report runs/demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test,dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
