# Every target works alone in a fresh clone with Python 3.11 or newer: it makes .venv first where there is none.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.11 python3.12 python3.13; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
endif
NEED := expected Python 3.11 or newer, got $(or $(PYTHON),none on the PATH); install one, or run: make setup PYTHON=/path/to/python3

.PHONY: setup demo test test-browser check fmt docs-numbers clean

setup: $(STAMP)

# torch first and alone, so that any build of 2.13.0 (CPU, CUDA) that is there already, or preferred, is kept. The two
# that metrics are tested against come without what they ask for: PyPI's torchvision is built for CUDA, and where torch
# is not, its import fails, and that of all that looks for it. The tests need nothing of it.
$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "$(NEED)" >&2; exit 2; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps torch-fidelity lpips
	@touch $(STAMP)

demo: setup
	$(BIN)/unsee demo --out runs/demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile $(ARGS)

# The report in the system's Chromium (Debian: apt-get install chromium); skipped with a reason where there is none.
test-browser: setup
	$(BIN)/python -m pip install --quiet playwright
	$(BIN)/python -m pytest -q -m slow tests/test_report_browser.py

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/docs_numbers.py --check

fmt: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs-numbers: setup
	$(BIN)/python scripts/docs_numbers.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
