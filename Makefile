# `make demo` and `make test` do all the set-up they need, once: a virtual environment in .venv.
PYTHON ?= python3.11
export WANDB_MODE ?= offline
# spinning threads slow each other down on a busy machine
export OMP_WAIT_POLICY ?= PASSIVE

BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-all lint clean
demo: $(STAMP)
	$(BIN)/tsgen fit --config demo
	$(BIN)/tsgen test --config demo
	$(BIN)/tsgen predict --config demo
	$(BIN)/tsgen report runs/demo

# files of many seconds lie anywhere in the alphabet: by the number of their tests they would come last
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: $(STAMP)
	$(PYTEST) -m "not slow"

test-all: $(STAMP)
	$(PYTEST)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt --config-settings editable_mode=compat -e '.[test,dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
