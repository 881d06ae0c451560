# make demo: set up, run the main job on synthetic faces, name the report to open.  make test: set up, run the tests,
# those of properties with 100 drawn cases each, the same in each run; `pytest` alone draws 30, and
# `pytest -m "not slow"` leaves the long tests out.
# make docs: set up, build the documentation and run the examples for it; then open docs/_build/html/index.html.
# make bench: how fast it is against what it replaces, as ratios, with nothing else running; one pair trains by the
# paper's recipe, which takes long.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo
# Of the tests. More than the cores, of which they need one each, get in each other's way.
WORKERS ?= 2

.PHONY: demo test docs bench lint clean
.DEFAULT_GOAL := test

# torch and torchvision come from one resolution: apart they may not fit each other.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/fairlearn-bridge demo --out $(OUT) --force

# CompressAI asks for numpy below 2, but works with numpy 2 if it is installed without its dependencies. It gets a folder
# of its own, which only its test sees: skorch imports torch-geometric wherever it finds it, and warns. Where there is no
# wheel for this Python, the folder stays empty, and the test skips and says why; `make clean` tries again.
$(VENV)/compressai: $(VENV)/installed
	rm -rf $@
	-$(BIN)/python -m pip install --quiet --no-deps --only-binary :all: --target $@ compressai==1.2.8 torch-geometric einops tomli pybind11 pytorch-msssim
	mkdir -p $@
	touch $@

test: $(VENV)/installed $(VENV)/compressai
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal --hypothesis-profile thorough --hypothesis-seed 0
	PYTHONPATH=$(VENV)/compressai $(BIN)/python -m pytest -rs -k compressai tests/fairlearn_bridge/audit/test_model_codec.py

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
