# Two commands on a fresh machine with Python 3.11+ and pip: `make demo` and `make test`.
# Both create .venv and install into it first. A stamp is written only after a complete install, so an interrupted one starts again.

PYTHON ?= python3
PROFILE ?= full
EFFORT ?=
OUT ?= demo
WORK ?= .results
STUDENT ?=
VENV := .venv
BIN := $(VENV)/bin
# The tests of a file stay in one process, so that what they share is made once.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# What pip writes, warnings about the machine's own settings included; shown only when it fails.
LOG := $(VENV)/install.log
FAILED = tail -n 40 $(LOG); echo "The install failed; everything pip wrote is in $(LOG)"; exit 1

.PHONY: help demo test quick coverage lint docs docs-serve results clean
.DELETE_ON_ERROR:

help:
	@echo "make demo [PROFILE=quick] [EFFORT=thorough] [OUT=demo]   potstill fit on built-in data"
	@echo "make test                              every test, and how long each folder of tests took"
	@echo "make quick                             the tests that take seconds"
	@echo "make coverage                          the lines that those tests run, by file"
	@echo "make lint                              ruff and mypy"
	@echo "make docs [STUDENT=demo/student]       the documentation site, into site/; a broken link or anchor is an error"
	@echo "make docs-serve                        show it at http://localhost:8000, and renew it when a page changes"
	@echo "make results [QUICK=1] [WORK=.results] every result file of benchmarks/, from nothing (hours; QUICK=1: minutes);"
	@echo "                                       with MINUTES=60 none is begun after that, and the next run goes on"
	@echo "make clean                             remove .venv and build files"

demo: $(VENV)/.installed-demo
	$(BIN)/potstill demo --out $(OUT) --profile $(PROFILE) $(if $(EFFORT),--effort $(EFFORT))

test: $(VENV)/.installed-dev
	$(PYTEST)

quick: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow"

coverage: $(VENV)/.installed-dev
	$(BIN)/coverage run -m pytest -m "not slow"
	$(BIN)/coverage report

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/python -m docs.tools build $(STUDENT)

docs-serve: $(VENV)/.installed-dev
	$(BIN)/python -m docs.tools serve

results: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks results --work $(WORK) $(if $(QUICK),--quick) $(if $(MINUTES),--most-min $(MINUTES))

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "Installing potstill[$*] into $(VENV) (about 1 GB, a few minutes)"
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[$*]' >$(LOG) 2>&1 || { $(FAILED); }
	@touch $@

# Debian's python3 without python3-venv cannot install pip into a new environment; the system's pip does it then.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "potstill needs Python 3.11 or later; choose one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
		rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) && \
		{ $(PYTHON) -m pip --python $(BIN)/python install pip >$(LOG) 2>&1 || { $(FAILED); }; }; }
	@touch $@

clean:
	rm -rf $(VENV) .cache build dist site *.egg-info
