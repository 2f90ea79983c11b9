# Two commands that always work: `make demo` (set-up and the main job) and `make test` (set-up and the tests).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
TORCH := $(shell grep '^torch==' constraints.txt)
WORKERS ?= 2
export OMP_NUM_THREADS ?= 1

.PHONY: install demo test test-slow lint clean

install: $(VENV)/.installed

# torch comes first and pinned: a later package that asks for a range would bring a newer one, with gigabytes of CUDA.
$(VENV)/.installed: pyproject.toml constraints.txt setup.py $(wildcard titan_neuro/titans/memory/cpp/*)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,pipelines]'
	touch $@

# The main job on a synthetic dataset of ds003017. What is done already is not done again.
demo: install
	$(BIN)/titan-neuro simulate $(DEMO)/ds003017-synthetic
	$(BIN)/titan-neuro fetch $(DEMO)/ds003017-synthetic $(DEMO)/bids
	$(BIN)/titan-neuro run $(DEMO)/bids $(DEMO)/output participant --config-file pipelines/demo.yaml --nprocs 2
	$(BIN)/titan-neuro run $(DEMO)/bids $(DEMO)/output group --config-file pipelines/demo.yaml --nprocs 1
	@echo "Report: $(abspath $(DEMO)/output/report.html)"

test: install lint
	$(BIN)/pytest -m 'not slow' -n $(WORKERS) --dist loadgroup

test-slow: install
	$(BIN)/pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror titan_neuro/titans/memory/cpp/*
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build *.egg-info titan_neuro/titans/memory/*.so
	if [ -d $(DEMO) ]; then chmod -R u+w $(DEMO) && rm -rf $(DEMO); fi
