# Each target first makes .venv, so `make demo` and `make test` work in a fresh clone.

PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help demo test conformance coverage-table check lint types clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: .venv/installed ## train one classifier over two hospitals; no patient's row leaves its hospital
	.venv/bin/python examples/hospitals.py

test: .venv/installed ## run the tests and print their coverage
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --cov --cov-report=term-missing:skip-covered

conformance: .venv/installed ## all samples of torch's databases on both kinds of worker (an hour or so)
	OMP_NUM_THREADS=1 .venv/bin/python tests/conformance/sweep.py build/conformance.json

coverage-table: .venv/installed ## docs/reference/coverage.md from the results of `make conformance`
	.venv/bin/python tests/conformance/coverage_table.py build/conformance.json docs/reference/coverage.md

check: lint types test ## everything that must pass before a commit

lint: .venv/installed ## ruff: rules and format
	.venv/bin/ruff check
	.venv/bin/ruff format --check

types: .venv/installed ## mypy --strict on src, tests and examples
	.venv/bin/mypy

clean: ## remove .venv, caches and build results
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* build dist
	find src tests examples typings -name __pycache__ -prune -exec rm -rf {} +

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'ptrtensor needs Python 3.11 or newer, and "$(PYTHON)" is not. Try: make PYTHON=python3.12' >&2; \
	    exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -c constraints.txt -e ".[dev]"
	@touch $@
