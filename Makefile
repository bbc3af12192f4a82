# A fresh machine needs Python 3.11 or newer, make and the package registry, nothing else.
#
#   make app     the lab on http://localhost:8501
#   make test    every test          make check   format, lint, types, import rules
#   make bench   the benchmarks      make clean   remove .venv and caches; runs and the record stay
#   make faults  200 rounds of killed processes, damaged files and full disks

PYTHON ?= python3
BIN := .venv/bin

.PHONY: app test check bench faults clean

app: .venv/installed
	$(BIN)/streamlit run app/Home.py --server.port 8501

test: .venv/installed-dev
	$(BIN)/python -m pytest $(ARGS)

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy lab
	$(BIN)/lint-imports

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks $(ARGS)

faults: .venv/installed-dev
	$(BIN)/python -m benchmarks.faults $(ARGS)

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp files are newer than what they were made from, so installing happens once, and again after a change.
.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test,dev,bench]"
	@touch $@ .venv/installed

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "The lab needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1): make PYTHON=python3.12 app"; exit 1; }
	$(PYTHON) -m venv .venv
