# Two commands that always work: `make demo` (set-up and the main job) and `make test` (set-up and the tests).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
TORCH := $(shell grep '^torch==' constraints.txt)
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist loadgroup --durations=10
export OMP_NUM_THREADS ?= 1

.PHONY: install demo test test-system test-slow test-all lint clean

install: $(VENV)/.installed

# torch comes first and pinned: a later package that asks for a range would bring a newer one, with gigabytes of CUDA.
$(VENV)/.installed: pyproject.toml constraints.txt setup.py $(wildcard titan_neuro/titans/memory/cpp/*)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,pipelines]'
	touch $@

# The main job on a synthetic copy of ds003017's layout. What is done is not repeated.
demo: install
	$(BIN)/titan-neuro simulate $(DEMO)/ds003017-synthetic
	$(BIN)/titan-neuro fetch $(DEMO)/ds003017-synthetic $(DEMO)/bids
	$(BIN)/titan-neuro run $(DEMO)/bids $(DEMO)/output participant --config-file pipelines/demo.yaml --nprocs 2
	$(BIN)/titan-neuro run $(DEMO)/bids $(DEMO)/output group --config-file pipelines/demo.yaml --nprocs 1
	@echo "Report: $(abspath $(DEMO)/output/report.html)"

# Minutes on two cores: before every commit.
test: install lint
	$(BIN)/pytest -m 'not slow and not slurm and not browser' $(PARALLEL)

# With a real Slurm cluster and a real browser.
test-system: install
	$(BIN)/pytest -m '(slurm or browser) and not slow' $(PARALLEL)

# The long versions: more seeds, every kill, whole studies.
test-slow: install
	$(BIN)/pytest -m slow $(PARALLEL)

test-all: test test-system test-slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror titan_neuro/titans/memory/cpp/*
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build *.egg-info titan_neuro/titans/memory/*.so
	if [ -d $(DEMO) ]; then chmod -R u+w $(DEMO) && rm -rf $(DEMO); fi
