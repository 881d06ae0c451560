# make demo: set up, run the main job on synthetic faces, name the report to open.  make test: set up, run the tests,
# those of properties with 5,500 drawn cases; `pytest -m "not slow"` leaves the long ones out, and
# `pytest -m hypothesis --hypothesis-profile thorough` runs the properties alone, with 500 cases each.
# make docs: set up, build the documentation and run the examples for it; then open docs/_build/html/index.html.
# make bench: how fast it is against what it replaces, as ratios; 10 to 40 minutes with nothing else running.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo
JOBS ?= 2

.PHONY: demo test docs bench lint clean
.DEFAULT_GOAL := test

# torch and torchvision come from one resolution: apart they may not fit each other.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/fairlearn-bridge demo --out $(OUT) --force

test: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

docs: $(VENV)/installed
	$(BIN)/python -m sphinx -W docs docs/_build/html

bench: $(VENV)/installed
	$(BIN)/python examples/benchmarks/speed.py --out bench.json --force

lint: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy examples/benchmarks

clean:
	rm -rf $(VENV) build dist *.egg-info docs/_build docs/gallery docs/generated
