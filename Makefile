# Two targets do everything on a fresh Debian 12+ or Ubuntu 24.04+ machine: `make demo` and `make test`.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
DEMO_REPORT ?= demo-report
DEMO_OPTIONS ?=
LAB_OPTIONS ?=

.PHONY: help demo lab test test-quick lint type compliance mutate bench fuzz clean setup

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## the virtual environment with everything the commands and tests need

$(VENV)/.ready: pyproject.toml tools/setup.sh
	@sh tools/setup.sh venv "$(VENV)" "$(PYTHON)" --group dev
	@touch $@ $(VENV)/.ready-run

$(VENV)/.ready-run: pyproject.toml tools/setup.sh
	@sh tools/setup.sh venv "$(VENV)" "$(PYTHON)"
	@touch $@

demo: ## two hosts, an IKE SA, three measurements and a refusal (DEMO_OPTIONS="--mode transport")
	@sh tools/setup.sh demo
	@$(MAKE) -s --no-print-directory $(VENV)/.ready-run
	@$(BIN)/ippm-ipsec demo --report "$(DEMO_REPORT)" $(DEMO_OPTIONS)

lab: ## two hosts with an IKE SA and a bad path between them, a shell on each (LAB_OPTIONS="loss=1% --nat")
	@sh tools/setup.sh lab
	@$(MAKE) -s --no-print-directory $(VENV)/.ready-run
	@$(BIN)/python -m interop.lab $(LAB_OPTIONS)

test: ## everything that proves it (installs Debian packages only as root and only if missing)
	@sh tools/setup.sh test
	@$(MAKE) -s --no-print-directory setup
	@sh tools/test.sh "$(BIN)"

test-quick: setup ## unit, property, vector and simulation tests: no namespaces, no foreign daemons
	@$(BIN)/pytest -q -m "not netns and not uml and not strongswan"

lint: setup ## ruff and the import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

type: setup ## mypy, strict
	@$(BIN)/mypy

compliance: setup ## every requirement id: covered, superseded, not testable or open
	@$(BIN)/python tools/compliance.py --check --write docs/compliance.md

COUNT ?= 50
SEED  ?=
mutate: setup ## COUNT random requirement ids (SEED): does a test fail when the line that enforces it is removed?
	@$(BIN)/python -m tools.mutate --write --count $(COUNT) $(if $(SEED),--seed $(SEED)); ended=$$?; \
		$(BIN)/python tools/compliance.py --write docs/compliance.md >/dev/null && exit $$ended

bench: setup ## what things cost here: IKE handshakes, ESP, TWAMP (no assertions)
	@for one in bench/*.py; do echo "== $$one"; $(BIN)/python $$one || exit 1; done

RUNS ?= 1000000
FUZZ_SECONDS ?=
fuzz: setup ## coverage-guided fuzzing of parsers, an IKE endpoint, O/TWAMP servers: RUNS each, or FUZZ_SECONDS for all
	@$(BIN)/python -c "import atheris" 2>/dev/null || $(BIN)/python -m pip install -q --group fuzz || true
	@$(BIN)/python fuzz/run.py all $(if $(FUZZ_SECONDS),--seconds $(FUZZ_SECONDS),--runs $(RUNS))

clean: ## remove what the targets above made
	rm -rf $(VENV) $(DEMO_REPORT) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
