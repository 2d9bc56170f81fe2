# Thin: every target is one or two commands that work without make, too. See README.md for Windows.
PYTHON ?= python3
VENV   ?= .venv
DATA   ?=
BIN    := $(VENV)/bin
# For machines where the package index serves a CUDA build of torch and you want the small one:
#   make course PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=

# Tests run in as many processes as there are cores; PROCESSES=0 runs them in one, which debuggers need.
PROCESSES ?= logical
PYTEST := $(BIN)/python -m pytest -n $(PROCESSES) --dist loadgroup

.PHONY: course test test-quick test-all test-site test-faults test-fuzz test-floors test-latest env lab notebooks figures house \
        lint fixture site workshop bundle cards bench kill clean help
.DEFAULT_GOAL := help

help:            ## show the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST)

course: env      ## run the whole course; DATA=<root> takes your own slides
	$(BIN)/mil-tutorial course $(if $(DATA),--data "$(DATA)")

test: env        ## run the tests and, once, every notebook
	$(PYTEST) -m "not heavy"

test-quick: env  ## run the tests that take a minute together
	$(PYTEST) -m "not slow"

test-all: env    ## run everything that is not in a browser: kills, a cluster, damaged files, types, the workshop's notebooks
	$(PYTEST)

test-site: site workshop ## build website and slides and test them in a real browser, JupyterLab and the launch on a bare machine too
	$(PYTEST) --dist loadfile tests/browser

test-faults: env ## disturb every command 20 times in six ways and run it again; prints the table (half an hour)
	$(BIN)/python tests/faults/matrix.py --times 20 $(FAULT_ARGS)

test-fuzz: env   ## 20 000 damaged files through everything that reads (some minutes)
	$(BIN)/python tests/faults/fuzz.py --inputs 20000 $(FUZZ_ARGS)

test-floors:     ## the tests with the oldest versions that pyproject.toml allows (needs uv)
	$(PYTHON) tools/test_versions.py lowest-direct

test-latest:     ## the tests with the newest versions of everything (needs uv)
	$(PYTHON) tools/test_versions.py highest

lab: env         ## open the course in JupyterLab
	$(BIN)/jupyter lab notebooks/01-data-and-patch-labels.ipynb

env: $(VENV)/.ready   ## make .venv with pinned versions

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, found " + sys.version.split()[0] + ". Give one: make course PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt $(PIP_ARGS) torch -e '.[course,test]'
	@touch $@

notebooks: env   ## build notebooks/*.ipynb from notebooks/scripts/*.py
	$(BIN)/python tools/build_notebooks.py

site: $(VENV)/.site   ## build the website into build/site
	$(BIN)/python tools/make_site.py

workshop: $(VENV)/.site   ## student, solution and instructor notebooks and slides into build/workshop
	$(BIN)/python tools/make_workshop.py

bundle: site workshop ## one zip for a room without network; BUNDLE_ARGS="--wheels" puts the wheels in
	$(BIN)/python tools/make_bundle.py $(BUNDLE_ARGS)

cards: env       ## write the measured seconds and memory of the last `make course` into the notebooks' cards
	$(BIN)/python tools/update_cards.py
	$(BIN)/python tools/build_notebooks.py

figures: env     ## draw the image of the README
	$(BIN)/python tools/make_figures.py

house: env       ## count lines, imports and types of the rooms, and draw them for README and website
	$(BIN)/python tools/house.py --draw site/_static/rooms.svg
	$(BIN)/python tools/house.py

lint: env        ## style, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

fixture: env     ## draw all synthetic slides and compare them with what ships
	$(BIN)/mil-tutorial fixture --all --verify

bench: env       ## the timings of benchmarks/README.md (half an hour; needs 12 GB of disk)
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/classic.py
	$(BIN)/python benchmarks/gpu.py

kill: env        ## stop training at twenty random moments and resume it
	MIL_TUTORIAL_KILLS=20 $(BIN)/python -m pytest -k killed_at_random_moments tests/training

$(VENV)/.site: $(VENV)/.ready
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt $(PIP_ARGS) -e '.[course,test,site]'
	@touch $@

clean:           ## remove what was built, not the drawn slides in the cache folder
	rm -rf $(VENV) build dist site/notebooks .pytest_cache .ruff_cache .mypy_cache
