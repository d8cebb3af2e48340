# The two commands of the project, and the smaller ones they are made of.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 4

.PHONY: demo test check build clean

demo:
	scripts/setup $(VENV) $(PYTHON) service
	scripts/demo $(VENV)

test: check
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal

check:
	scripts/setup $(VENV) $(PYTHON) dev
	scripts/check $(VENV)

build:
	scripts/setup $(VENV) $(PYTHON) dev
	$(VENV)/bin/python -m build

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
