# Tuneproof. `make demo` and `make test` need nothing but python 3.11+, make and git.

PYTHON ?= python3
# How to get torch. CPU builds: pass your index, e.g. TORCH="torch==2.13.0 --index-url …"
TORCH ?= torch==2.13.0
STUDY ?= config.yaml

BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
export PYTHONUNBUFFERED := 1
RESOLVE := --quiet --universal --python-version 3.11 --generate-hashes --override envs/torch-apart.txt --no-emit-package torch --no-header
SNAKEMAKE = python scripts/run_study.py --profile profiles/local

.PHONY: help demo setup test lint format schema report dag plan lock clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: setup  ## the default study, from the sample site to results/report.html
	@$(SNAKEMAKE) && echo "report: $(CURDIR)/results/report.html"

setup: .venv/installed  ## virtual environment and models
	@$(SNAKEMAKE) models --quiet all

.venv/installed: envs/cpu.lock envs/dev.lock
	$(PYTHON) -c 'import sys; sys.exit("python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	python -m pip install -qq --disable-pip-version-check $(TORCH)
	python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r envs/cpu.lock
	python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r envs/dev.lock
	touch $@

test: setup  ## everything that runs on this machine: unit, dag, e2e
	python -m pytest tests/unit tests/dag tests/e2e

lint: .venv/installed  ## ruff, snakefmt, snakemake --lint, mypy
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	mypy
	snakemake --lint

format: .venv/installed  ## put the sources in order
	ruff check --fix .
	ruff format .
	snakefmt Snakefile rules

schema: .venv/installed  ## write schemas/config.schema.json from the types
	PYTHONPATH=scripts python -m tuneproof.study > schemas/config.schema.json

dag: .venv/installed  ## the rules of the default study as mermaid
	@snakemake --rulegraph mermaid-js

plan: .venv/installed  ## what would run, without running it
	@snakemake -n --configfile $(STUDY) --quiet rules

report: .venv/installed  ## Snakemake's own report, with captions
	snakemake --report results/snakemake-report.html

lock:  ## resolve envs/*.in into locks with hashes
	uv pip compile $(RESOLVE) envs/cpu.in -o envs/cpu.lock
	uv pip compile $(RESOLVE) -c envs/cpu.lock envs/dev.in -o envs/dev.lock

clean:  ## remove results and logs; models, environment and paid calls stay
	rm -rf results logs checkpoints resources/corpora resources/sites
