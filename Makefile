# A fresh machine needs Python 3.11 or newer, make and the package registry, nothing else.
#
#   make app     the lab on http://localhost:8501
#   make test    every test, those in a browser one by one          make check   format, lint, types, import rules
#   make bench   the benchmarks      make clean   remove .venv and caches; runs and the record stay
#   make faults  200 rounds of killed processes, damaged files and full disks
#   make unsloth an environment of its own for fast fine-tuning; only with an NVIDIA GPU
#   make qwen7b  the lab's reference for a large model: tuned, compared, probed; hub and GPU needed

PYTHON ?= python3
BIN := .venv/bin

.PHONY: app test check bench faults unsloth qwen7b clean

app: .venv/installed
	$(BIN)/streamlit run app/Home.py --server.port 8501

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/browser
	$(BIN)/python -m pytest tests/browser

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy lab
	$(BIN)/lint-imports

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks $(ARGS)

faults: .venv/installed-dev
	$(BIN)/python -m benchmarks.faults $(ARGS)

# Unsloth patches the libraries beside it for the whole process, so it never shares an environment with the app.
unsloth: .venv-unsloth/installed

.venv-unsloth/installed: pyproject.toml constraints-unsloth.txt
	@command -v nvidia-smi >/dev/null || { echo "Unsloth needs an NVIDIA GPU, and nvidia-smi is not here: nothing was installed."; exit 1; }
	$(PYTHON) -m venv .venv-unsloth
	.venv-unsloth/bin/python -m pip install --quiet -c constraints-unsloth.txt -e ".[unsloth]"
	@touch $@

qwen7b: .venv/installed
	$(BIN)/python -m benchmarks.gpu.qwen7b $(ARGS)

clean:
	rm -rf .venv .venv-unsloth .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis *.egg-info
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
