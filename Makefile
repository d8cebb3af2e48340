# The two commands of the project, and the smaller ones they are made of.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 4

BACKEND ?= bubblewrap
# Without those that choose a backend themselves.
FLOWS = $(filter-out %_options.py %_piped.py %_metalbox.py %_daytona.py,$(wildcard tests/integration/test_flows*.py))

.PHONY: demo test flows check build clean

demo:
	scripts/setup $(VENV) $(PYTHON) service
	scripts/demo $(VENV)

test: check
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal

# The flow suite, and more TESTS, on one backend or several: make flows BACKEND="podman boxlite"
flows:
	scripts/setup $(VENV) $(PYTHON) dev
	set -e; for backend in $(BACKEND); do METAFLOW_SANDBOX_TESTS_BACKEND=$$backend \
		$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile $(FLOWS) $(TESTS); done

check:
	scripts/setup $(VENV) $(PYTHON) dev
	scripts/check $(VENV)

build:
	scripts/setup $(VENV) $(PYTHON) dev
	$(VENV)/bin/python -m build

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
