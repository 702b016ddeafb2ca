# Each target first makes .venv, so `make demo` and `make test` work in a fresh clone.

PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz fuzz-frames conformance coverage-table bench bench-peers bench-serving bench-docs check lint types clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: .venv/installed ## train one classifier over two hospitals; no patient's row leaves its hospital
	.venv/bin/python examples/hospitals.py

test: .venv/installed ## run the tests and print their coverage
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --cov --cov-report=term-missing:skip-covered

fuzz-frames: .venv/installed ## 100,000 mutated frames at sessions, links and a real server (some minutes)
	OMP_NUM_THREADS=1 PTRTENSOR_FUZZ_FRAMES=100000 .venv/bin/pytest tests/attacks/test_fuzzed_frames.py

conformance: .venv/installed ## all samples of torch's databases on both kinds of worker (an hour or so)
	OMP_NUM_THREADS=1 .venv/bin/python tests/conformance/sweep.py build/conformance.json

coverage-table: .venv/installed ## docs/reference/coverage.md from the results of `make conformance`
	.venv/bin/python tests/conformance/coverage_table.py build/conformance.json docs/reference/coverage.md

fuzz: .venv/installed ## all operations that a worker runs, with hostile arguments in guarded memory (an hour or more)
	for side in after before; do \
	    nice -n 15 .venv/bin/python tests/attacks/fuzzing/fuzz.py build/fuzz --side $$side || exit 1; \
	done

bench: .venv/installed ## the same workloads on local torch, ptrtensor and what else is installed (a few minutes)
	.venv/bin/python -m benchmarks build/benchmarks.json

bench-peers: ## install the systems that `make bench` compares with, each in an environment of its own
	for peer in rgpu ray; do \
	    $(PYTHON) -m venv build/peers/$$peer && \
	    build/peers/$$peer/bin/pip install -r benchmarks/peers/$$peer.txt && \
	    { [ ! -f benchmarks/peers/$$peer-alone.txt ] || \
	      build/peers/$$peer/bin/pip install --no-deps -r benchmarks/peers/$$peer-alone.txt; } || exit 1; \
	done

bench-serving: .venv/installed ## what TLS and the audit log cost, and what a client that floods does to another
	.venv/bin/python -m benchmarks.serving build/serving.json

bench-docs: .venv/installed ## the tables and plots of docs/explanation/performance.md from the results of `make bench`
	.venv/bin/python -m benchmarks.pages build/benchmarks.json docs/explanation

check: lint types test ## everything that must pass before a commit

lint: .venv/installed ## ruff: rules and format
	.venv/bin/ruff check
	.venv/bin/ruff format --check

types: .venv/installed ## mypy --strict on src, tests, examples and benchmarks
	.venv/bin/mypy

clean: ## remove .venv, caches and build results
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* build dist
	find src tests examples benchmarks typings -name __pycache__ -prune -exec rm -rf {} +

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'ptrtensor needs Python 3.11 or newer, and "$(PYTHON)" is not. Try: make PYTHON=python3.12' >&2; \
	    exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -c constraints.txt -e ".[dev]"
	@touch $@
