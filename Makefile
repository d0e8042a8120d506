# Two commands matter: `make lab` and `make test`. Everything lives in .venv; remove that folder to start afresh.
PYTHON ?= python3
ARGS ?=
CHAPTERS ?= notebooks/*.ipynb
BOOK ?= book
PY := .venv/bin/python
# Bytecode is kept, whatever is set outside: else every process that the tests start compiles the lab anew.
unexport PYTHONDONTWRITEBYTECODE
# Two processes of one thread each: threads of torch that share a core with anything else slow each other down.
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal
SLOWER := tests/test_cli% %/test_process.py %/test_projection.py %/test_prepare.py
FAST := tests/losses tests/metrics tests/models tests/sampling tests/plots \
  $(filter-out $(SLOWER), $(wildcard tests/test_*.py tests/datasets/test_*.py))
PIP := $(PY) -m pip install --disable-pip-version-check -c constraints.txt

help:  ## show this list
	@sed -n 's/^\([a-z -]*\):.*## /  make \1\t/p' Makefile

lab: .venv/lab-ready  ## open JupyterLab at the first notebook; flags: make lab ARGS="--no-browser --port 8890"
	@$(PY) -m labkit.launch $(ARGS)

test: lint  ## check all that protects a change; one part of it: make test ARGS="tests/losses -k hinge"
	@sh tests/browser/chromium.sh
	$(PYTEST) -m "not slow" $(ARGS)

test-all: test  ## the same, then what takes patience: retrains, kills, every notebook in the browser, the book
	$(PYTEST) -m slow $(ARGS) || [ $$? = 5 ]  # 5: ARGS select no slow test

test-oldest: RESOLUTION := lowest-direct
test-latest: RESOLUTION := highest
test-oldest test-latest: ENV = .venv-$(@:test-%=%)
test-oldest test-latest: PY = $(ENV)/bin/python
test-oldest test-latest:  ## check with the lowest, or newest, versions that pyproject.toml allows (torch as pinned)
	$(PYTHON) -m venv $(ENV) && $(PY) -m pip install -q uv
	grep '^torch==' constraints.txt > $(ENV)/pins
	$(ENV)/bin/uv pip install -q --python $(ENV) -c $(ENV)/pins --upgrade --resolution $(RESOLUTION) -e ".[test]"
	$(PYTEST) -m "not slow" $(ARGS)

test-fast: lint  ## check style, mathematics and data alone: no training, no notebook, no browser
	$(PYTEST) -m "not slow" $(FAST) $(ARGS)

lint: .venv/test-ready  ## check style and types, and that imports only go down
	$(PY) -m ruff check .
	$(PY) -m ruff format --check --quiet .
	.venv/bin/pyrefly check --min-severity error
	.venv/bin/lint-imports

bench: .venv/test-ready  ## measure a training step against a bare loop, each loss against torch.pdist, the explorers
	$(PY) benchmarks/digits_step.py
	$(PY) benchmarks/losses.py $(ARGS)
	$(PY) benchmarks/explorer.py
	$(PY) benchmarks/page.py

gpu:  ## all that a GPU can tell, in nine minutes: ARGS="--out FOLDER"; anywhere, in miniature: ARGS=--rehearse
	$(if $(wildcard $(PY)),$(PY),$(PYTHON)) benchmarks/gpu.py $(ARGS)

atlas: .venv/lab-ready  ## train and judge every condition of data/atlas with every seed: hours; ARGS=--missing: what it lacks
	OMP_NUM_THREADS=1 $(PY) data/build_atlas.py $(ARGS)

book: .venv/book-ready  ## run all notebooks; make one site of them, the documents and the reference: book/index.html
	$(PY) docs/build.py $(CHAPTERS) --out $(BOOK) $(ARGS)

constraints: .venv/test-ready .venv/book-ready  ## write the versions installed in .venv into constraints.txt
	grep '^#' constraints.txt > .venv/pins
	$(PY) -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' >> .venv/pins
	mv .venv/pins constraints.txt && touch .venv/lab-ready .venv/test-ready .venv/book-ready

# A stamp file says that an install is done; it is made again when a range or a pin changes. The pin of torch also
# accepts a CPU build that pip knows of (torch==2.13.0+cpu); on Linux the index's own build carries CUDA.
.venv/lab-ready: pyproject.toml constraints.txt | .venv/bin/pip
	@echo "Installing labkit and what it needs into .venv: a few minutes, once."
	$(PIP) -e ".[lab]"
	@touch $@

.venv/test-ready: .venv/lab-ready
	$(PIP) --quiet -e ".[test]"
	@touch $@

.venv/book-ready: .venv/lab-ready
	$(PIP) --quiet -e ".[book]"
	@touch $@

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "labkit needs Python 3.11 or newer; name one: make lab PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "This Python has no venv module; on Debian or Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv

.PHONY: help lab test test-all test-oldest test-latest test-fast lint bench gpu atlas book constraints
