# `make demo` and `make test` do all set-up themselves: virtual environment, packages, WordNet, a browser for page tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint bench gpu-check embedded setup clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt scripts/setup_system.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	-$(BIN)/pip install --quiet --disable-pip-version-check --no-deps lightly==1.6.0  # its losses, for one test
	$(BIN)/python scripts/setup_system.py wordnet
	touch $@

demo: setup
	$(BIN)/imagenet-sd prompts --classes photos-10 --prompt c_dc --limit 3
	@study=mini; $(BIN)/python scripts/setup_system.py cifar10 || \
		{ study=mini_digits; echo "without the photographs the demo uses handwritten digits"; }; \
	$(BIN)/imagenet-sd run pipelines/$$study.yaml --out demo/$$study && \
	echo && echo "open in a browser: $(CURDIR)/demo/$$study/report.html"

test: setup
	$(BIN)/python scripts/setup_system.py browser
	-$(BIN)/python scripts/setup_system.py cifar10 fashion
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: setup
	-$(BIN)/python scripts/setup_system.py cifar10 fashion
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: setup
	$(BIN)/imagenet-sd bench generate
	$(BIN)/imagenet-sd bench loader
	$(BIN)/imagenet-sd bench probe
	for script in sea embedded_quality kill_rounds fleet; do \
		echo "== $$script"; $(BIN)/python benchmarks/$$script.py || exit 1; done

gpu-check: setup
	$(BIN)/python benchmarks/gpu_check.py

embedded: setup
	$(BIN)/python scripts/train_embedded.py

clean:
	rm -rf $(VENV) build dist demo
