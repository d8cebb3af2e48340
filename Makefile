# The two commands of the project, and the smaller ones they are made of.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 4

BACKEND ?= bubblewrap
# Without those that choose a backend themselves.
FLOWS = $(filter-out %_options.py %_piped.py %_metalbox.py %_daytona.py %_e2b.py,$(wildcard tests/integration/test_flows*.py))

.PHONY: demo demo-cloud test flows check docs build clean

demo:
	scripts/setup $(VENV) $(PYTHON) service
	scripts/demo $(VENV)

# With stand-ins for the clouds, which are a part of the tests.
demo-cloud:
	scripts/setup $(VENV) $(PYTHON) dev
	scripts/demo-cloud $(VENV)

test: check
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal

# The flow suite, and more TESTS, on one backend or several, two at a time: make flows BACKEND="podman boxlite"
flows:
	scripts/setup $(VENV) $(PYTHON) dev
	printf '%s\n' $(BACKEND) | xargs -P 2 -I NAME sh -c 'log=$$(mktemp); \
		METAFLOW_SANDBOX_TESTS_BACKEND=NAME $(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile \
		$(FLOWS) $(TESTS) >$$log 2>&1; code=$$?; cat $$log; rm $$log; exit $$code'

check:
	scripts/setup $(VENV) $(PYTHON) dev
	scripts/check $(VENV)

# The site, in build/site.
docs:
	scripts/setup $(VENV) $(PYTHON) docs
	$(VENV)/bin/python scripts/configuration.py --check
	$(VENV)/bin/python -m mkdocs build --strict --quiet

build:
	scripts/setup $(VENV) $(PYTHON) dev
	$(VENV)/bin/python -m build

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
