# Two commands that always work: `make demo` (set-up and the main job) and `make test` (set-up and the tests).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
STUDY := --config-file pipelines/demo.yaml --set "probe.recall={tasks: {watching: movie, retelling: recall}, delay_s: 0}"
# The longest first.
PROBES := recall time-segment-matching decoding surprise history-swap context-length
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist loadgroup --durations=10
export OMP_NUM_THREADS ?= 1

# Prints the packages of constraints.txt whose names begin so, or, with ! as second argument, the others.
locked = awk '/^[a-z0-9]/ { found = /^($(1))/ } $(2)found' constraints.txt
PIP := $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation

.PHONY: install constraints demo demo-scores notebooks docs test test-system test-slow test-endurance test-all lint clean

install: $(VENV)/.installed

# Exactly the packages of constraints.txt, from nothing: what is no longer required must not stay. setuptools comes first:
# two packages are built, with it. Then torch's CPU build, where pip has a source of it: PyPI's for Linux needs the CUDA
# libraries, gigabytes.
$(VENV)/.locked: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	$(call locked,setuptools==) | $(PIP) --require-hashes --requirement /dev/stdin
	$(call locked,torch==) | sed 's/^torch==[0-9.]*/&+cpu/' | $(PIP) --require-hashes --requirement /dev/stdin 2>/dev/null || true
	$(call locked,cuda-|nvidia-,!) | $(PIP) --require-hashes --requirement /dev/stdin
	if $(BIN)/python -m pip show torch | grep -q '^Requires:.*nvidia'; then \
	    $(call locked,cuda-|nvidia-) | $(PIP) --require-hashes --requirement /dev/stdin; \
	fi
	touch $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml setup.py $(wildcard titan_neuro/titans/memory/cpp/*)
	$(PIP) --editable .
	$(BIN)/python -m pip check
	touch $@

# After a change of requirements in pyproject.toml: versions stay where they can. UPGRADE=--upgrade takes the newest.
constraints: install
	$(BIN)/uv pip compile --quiet $(UPGRADE) pyproject.toml --output-file constraints.txt

# The main job on a synthetic dataset with a story. Folds, then scores and probes, are made side by side: the last command
# finds them done, and would make them one after the other. What is done is not repeated.
demo: install
	$(BIN)/titan-neuro simulate $(DEMO)/ds003017-synthetic --preset story
	$(BIN)/titan-neuro fetch $(DEMO)/ds003017-synthetic $(DEMO)/bids
	$(BIN)/titan-neuro run $(DEMO)/bids $(DEMO)/output participant $(STUDY) --nprocs $(WORKERS)
	$(MAKE) --no-print-directory --jobs $(WORKERS) $(addprefix demo-fold-,1 2 3)
	$(MAKE) --no-print-directory --jobs $(WORKERS) demo-scores $(addprefix demo-probe-,$(PROBES))
	$(BIN)/titan-neuro run $(DEMO)/bids $(DEMO)/output group $(STUDY)

demo-fold-%:
	$(BIN)/titan-neuro train $(DEMO)/output $(STUDY) --fold $*

demo-scores:
	$(BIN)/titan-neuro evaluate $(DEMO)/output $(STUDY)

demo-probe-%:
	$(BIN)/titan-neuro probe $* $(DEMO)/output $(STUDY)

# The notebooks with new outputs, in minutes: 00, 04 and 05 show what the demo has made.
notebooks: demo
	$(BIN)/jupyter nbconvert --to notebook --inplace --execute --coalesce-streams --ExecutePreprocessor.record_timing=False \
	    notebooks/*.ipynb

# The site, build/docs/index.html: the pages of docs/ and a reference made from the code. No network is needed.
docs: install
	$(BIN)/sphinx-build --fail-on-warning --keep-going --doctree-dir build/doctrees docs build/docs

# Minutes on two cores: before every commit.
test: install lint
	$(BIN)/pytest -m 'not slow and not slurm and not browser' $(PARALLEL)

# With a real Slurm cluster and a real browser.
test-system: install
	$(BIN)/pytest -m '(slurm or browser) and not slow' $(PARALLEL)

# The long versions: more seeds, every kill, whole studies.
test-slow: install
	$(BIN)/pytest -m 'slow and not endurance' $(PARALLEL)

# Hours: all pairs of subcommands on one folder, 200 random histories of a study, 30 kills of each subcommand, every damage to
# each kind of file.
test-endurance: install
	$(BIN)/pytest -m endurance $(PARALLEL)

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
