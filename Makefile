# Every target that needs an environment makes it first; that takes milliseconds when it is up to date.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
PYTHON_ENV := .venv/bin

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: ## Make .venv and .venv-vllm from the lock files (again only when those change)
	@scripts/install.sh

.PHONY: install-main
install-main:
	@scripts/install.sh main

.PHONY: demo
demo: install ## Start everything, fine-tune a small model and talk to it
	@$(PYTHON_ENV)/python scripts/demo.py

.PHONY: up
up: install ## Start the API, a trainer and vLLM on this machine
	@$(PYTHON_ENV)/rootstock up

.PHONY: test
test: install ## Run every test; ARGS="-k name" goes to pytest
	@scripts/test.sh $(ARGS)

.PHONY: test-unit
test-unit: install-main ## Run the unit tests only: no services, seconds
	@scripts/test.sh unit $(ARGS)

.PHONY: clients
clients: install ## Run real third-party clients against a stack (needs the package indexes)
	@$(PYTHON_ENV)/python -m tests.clients.run $(ARGS)

.PHONY: check
check: install-main ## Lint, formatting, types, stale generated files
	@status=0; for step in "ruff check ." "ruff format --check ." "mypy" "python -m scripts.docs --check"; do \
	  echo "$(PYTHON_ENV)/$$step"; $(PYTHON_ENV)/$$step || status=1; \
	done; exit $$status

.PHONY: fmt
fmt: install-main ## Format, and repair what lint can repair
	$(PYTHON_ENV)/ruff check --fix .
	$(PYTHON_ENV)/ruff format .

.PHONY: fuzz
fuzz: install-main ## Fuzz every operation of the API document; MINUTES=10, ARGS="--only /v1/files"
	@$(PYTHON_ENV)/python -m scripts.api.fuzz --minutes $(or $(MINUTES),10) $(ARGS)

.PHONY: conformance
conformance: install-main ## Measure conformance with the official SDK on a live server (its own, or BASE_URL=) and write the table
	@$(PYTHON_ENV)/python -m scripts.api.conformance --write $(ARGS)

.PHONY: bench-api
bench-api: install-main ## Time list pages at 100,000 jobs and 1,000,000 events against 100, on SQLite and PostgreSQL
	@$(PYTHON_ENV)/python -m benchmarks.api --save $(ARGS)

.PHONY: soak
soak: install ## Load 50 adapters at random for an hour while everything happens to them; MINUTES=60, ARGS="--adapters 50"
	@$(PYTHON_ENV)/python -m tests.soak --minutes $(or $(MINUTES),60) $(ARGS)

.PHONY: bench-train
bench-train: install-main ## Train beside TRL and HF Trainer on the same rows, and check every figure; ARGS="--only memory"
	@scripts/install-bench.sh
	@$(PYTHON_ENV)/python -m benchmarks.training --save $(ARGS)

.PHONY: bench-estimates
bench-estimates: install-main ## Train jobs of many shapes and hold each against its estimate; writes docs/estimates.md
	@$(PYTHON_ENV)/python -m benchmarks.estimates --save $(ARGS)

.PHONY: evidence
evidence: install-main ## Measure on the small base what is said of fine-tuning, and the release gate; ARGS="--only gate"
	@$(PYTHON_ENV)/python -m benchmarks.evidence --save $(ARGS)

.PHONY: bench-serve
bench-serve: install ## Ask vLLM bare and through the gateway, 1 to 512 adapters, three ways of routing; ARGS="--only throughput"
	@$(PYTHON_ENV)/python -m benchmarks.serving --save $(ARGS)

.PHONY: bench-data
bench-data: install-main ## Time the format check and the whole data report on 100,000 lines
	@$(PYTHON_ENV)/python -m benchmarks.data --save $(ARGS)

.PHONY: bench-drift
bench-drift: install-main ## Count false alarms of the drift watch and the calls until a true one, and write docs/drift.md
	@$(PYTHON_ENV)/python -m benchmarks.drift --save $(ARGS)

.PHONY: lock
lock: ## Write the lock files anew; ARGS=--upgrade moves to the newest versions
	@scripts/lock.sh $(ARGS)

# Through a file beside it, so that a failing command does not leave an empty document.
.PHONY: openapi
openapi: install-main ## Write openapi/openapi.json from the code
	@mkdir -p openapi
	$(PYTHON_ENV)/python -m service openapi > openapi/openapi.json.new
	@mv openapi/openapi.json.new openapi/openapi.json

.PHONY: chart
chart: ## Lint, render and test the Helm chart
	@scripts/chart.sh

.PHONY: clean
clean: ## Remove both environments, caches and build output (not your data)
	rm -rf .venv .venv-vllm .venv-bench .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* build dist .install.lock
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
