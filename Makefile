# `make demo` and `make test` do all the set-up they need, once: a virtual environment in .venv.
# Any Python from 3.11 on will do; PYTHON=/path/to/python chooses one.
PYTHON ?= $(shell .ci/pythons | head -n 1 | cut -d " " -f 2-)
export WANDB_MODE ?= offline
# spinning threads slow each other down on a busy machine
export OMP_WAIT_POLICY ?= PASSIVE
# the tests start many processes, each of which would compile all modules again
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-all test-matrix lint clean
demo: $(STAMP)
	$(BIN)/tsgen fit --config demo
	$(BIN)/tsgen test --config demo
	$(BIN)/tsgen predict --config demo
	$(BIN)/tsgen report runs/demo

# a file's tests share fixtures; tests/conftest.py puts the longest files first, which xdist would sort by the
# number of their tests
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: $(STAMP)
	$(PYTEST) -m "not slow"

test-all: $(STAMP)
	$(PYTEST)

# every CPython from 3.11 to 3.14 on this machine, and the oldest dependencies; see .ci/matrix
test-matrix:
	.ci/matrix

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt --config-settings editable_mode=compat -e '.[test,dev]'
	touch $@

NEEDED := tsgen needs Python 3.11 or later
$(BIN)/python:
	@$(or $(PYTHON),$(error $(NEEDED); none was found. Install one or give PYTHON=/path/to/python)) \
	  -c "import sys; sys.version_info >= (3, 11) or sys.exit('$(NEEDED); $(PYTHON) is ' + sys.version.split()[0])"
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv .venv-matrix build *.egg-info
