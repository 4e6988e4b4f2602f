# Tuneproof. `make demo` and `make test` need nothing but python 3.11+, make and git.

PYTHON ?= python3
# How to get torch. CPU builds: pass your index, e.g. TORCH="torch==2.13.0 --index-url …"
TORCH ?= torch==2.13.0
STUDY ?= config.yaml
# processes that run side by side what computes on one core: unit, dag, trainings of tiny models
WORKERS ?= 2

# --no-compile: compileall does it on all cores (one of torch's own tests is of a newer python and does not compile)
INSTALL := python -m pip install -qq --disable-pip-version-check --no-compile

BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
export PYTHONUNBUFFERED := 1
RESOLVE := --quiet --universal --python-version 3.11 --generate-hashes --override envs/torch-apart.txt --no-emit-package torch --no-header
# torch's CUDA build has the same hashes everywhere, so it stands in these two locks
RESOLVE_CUDA := --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes
IMAGES := cpu gpu judge
# docker: the digest that containers/*.def name; debian: Debian packages, where no registry of images is reached
BASE ?= docker
RUN_STUDY = python scripts/run_study.py
SNAKEMAKE = $(RUN_STUDY) --profile profiles/local

.PHONY: help demo setup review test lint format schema report dag plan estimate tensorboard merge lock image images resume stage test-cluster bench-cluster bench-corpus bench-llm bench-llm-local bench-answers bench-judge bench-gpu test-gpu clean bench-train bench-statistics bench-judges-on-trial verify

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: setup  ## the default study, from the sample site to results/report.html
	@$(SNAKEMAKE) && echo "report: $(CURDIR)/results/report.html"

setup: .venv/installed  ## virtual environment and models
	@$(SNAKEMAKE) models --quiet all

.venv/installed: envs/cpu.lock envs/dev.lock
	$(PYTHON) -c 'import sys; sys.exit("python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(INSTALL) $(TORCH)
	$(INSTALL) --no-deps --require-hashes -r envs/cpu.lock
	$(INSTALL) --no-deps --require-hashes -r envs/dev.lock
	python -m compileall -q -j 0 -x torch/testing/_internal .venv/lib
	touch $@

resume: .venv/installed  ## go on with a run that was killed (PROFILE=slurm OVERLAY=slurm-preempt STUDY=…): its leftover jobs are ended first
	$(RUN_STUDY) --profile profiles/$(or $(PROFILE),local) $(if $(OVERLAY),--workflow-profile profiles/$(OVERLAY)) \
		$(if $(filter-out config.yaml,$(STUDY)),--configfile $(STUDY))

stage: .venv/installed  ## on a login node: fetch models, corpora and images, all that needs the internet (STUDY=…)
	$(SNAKEMAKE) staged $(if $(filter-out config.yaml,$(STUDY)),--configfile $(STUDY))

review: .venv/installed  ## pairs of DATASET to accept, reject or mend: review/DATASET.html and .csv (STUDY=…)
	@test -n "$(DATASET)" || { echo "DATASET=… is missing: a data set of kind pairs"; exit 1; }
	@$(SNAKEMAKE) review/$(DATASET).html --quiet all $(if $(filter-out config.yaml,$(STUDY)),--configfile $(STUDY))
	@cat review/$(DATASET).txt
	@echo "open review/$(DATASET).html; export to reviews/$(DATASET)/YOUR-NAME.jsonl and commit it: later runs follow it"

test: setup  ## everything that runs on this machine: unit, dag, e2e
	python -m pytest tests/unit tests/dag tests/e2e/test_training.py -n $(WORKERS) --dist worksteal
	python -m pytest tests/e2e --ignore tests/e2e/test_training.py

test-cluster: setup  ## on a private Slurm with real containers: Debian, as root, installs Slurm with apt-get
	python -m pytest tests/cluster

bench-cluster: .venv/installed  ## what Snakemake and Slurm add to the default study in results/costs: benchmarks/cluster.json
	python benchmarks/cluster.py $(if $(COSTS),--costs $(COSTS))

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

dag: .venv/installed  ## draw the rules of STUDY by where they run: docs/dag.mmd, docs/dag.svg
	@python scripts/draw_dag.py --study $(STUDY) --profile profiles/slurm --out docs \
		--name $(if $(filter config.yaml,$(STUDY)),dag,dag-$(basename $(notdir $(STUDY))))

estimate: .venv/installed  ## calls, tokens, dollars and GPU hours of STUDY, without a single call; the report then compares
	@python scripts/plan_study.py --study $(STUDY) --profile profiles/$(or $(PROFILE),local) --estimate results/estimate.json

plan: .venv/installed  ## what STUDY would cost with PROFILE (local, slurm), before anything runs
	@python scripts/plan_study.py --study $(STUDY) --profile profiles/$(or $(PROFILE),local)

bench-corpus: setup  ## from a crawl to an index at 1,000 and 10,000 pages (SIZES=…), beside trafilatura: benchmarks/corpus.json
	python benchmarks/corpus.py $(if $(SIZES),--sizes $(SIZES))

bench-llm: .venv/installed  ## our client for API models beside others, on a stub server: benchmarks/llm.json
	python benchmarks/llm.py --long 100000

bench-llm-local: setup  ## our engine on a CPU beside transformers and llama.cpp's server: benchmarks/llm_local.json
	python benchmarks/llm_local.py

bench-answers: setup  ## our students beside transformers' pipeline (TUNEPROOF_DATA=…, PROMPTS=…): benchmarks/answers.json
	@test -n "$(TUNEPROOF_DATA)" || { echo "TUNEPROOF_DATA=… is missing: the folder that holds tweetsumm/"; exit 1; }
	TUNEPROOF_DATA=$(TUNEPROOF_DATA) python benchmarks/answers.py $(if $(PROMPTS),--prompts $(PROMPTS))

bench-statistics: .venv/installed  ## do intervals and tests hold what they promise, on simulated studies: benchmarks/intervals.json
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/intervals.py

bench-judge: setup  ## our judge beside prometheus-eval's client on one engine (TUNEPROOF_DATA=…, WRITTEN=…): benchmarks/judge.json
	@test -n "$(TUNEPROOF_DATA)" || { echo "TUNEPROOF_DATA=… is missing: the folder that holds judge-calibration/"; exit 1; }
	TUNEPROOF_DATA=$(TUNEPROOF_DATA) python benchmarks/judge.py $(if $(WRITTEN),--written $(WRITTEN))

bench-judges-on-trial: setup  ## ways of judging, on answers that people have judged (TUNEPROOF_DATA=…): results/tables/trial.nq*.md
	@test -n "$(TUNEPROOF_DATA)" || { echo "TUNEPROOF_DATA=… is missing: the folder that holds judge-calibration/"; exit 1; }
	TUNEPROOF_DATA=$(TUNEPROOF_DATA) $(RUN_STUDY) results/tables/trial.nq.md results/tables/trial.nq-written.md \
		--profile profiles/local --configfile benchmarks/judges-on-trial.yaml

bench-gpu:  ## our trainer beside TRL on one GPU, Llama-2-7B's shape with random weights: benchmarks/gpu.json (docs/gpu.md)
	python benchmarks/gpu.py

test-gpu:  ## what needs a GPU; elsewhere every test skips, with its reason (docs/gpu.md)
	python -m pytest tests/gpu

tensorboard: .venv/installed  ## event files of all runs, finished or under way: results/tensorboard
	@python scripts/write_tensorboard.py

merge: .venv/installed  ## the adapter of RUN=model/method/dataset/seedN merged into its base: results/merged/RUN (ONTO=quantised: QLoRA)
	@test -n "$(RUN)" || { echo "RUN=… is missing: model/method/dataset/seedN"; exit 1; }
	@python scripts/merge_adapter.py --run $(RUN) --out results/merged/$(RUN) $(if $(ONTO),--onto $(ONTO))

bench-train: setup  ## our trainer on a CPU beside Trainer, TRL, LLaMA-Factory (TUNEPROOF_DATA=…): benchmarks/train.json
	@test -n "$(TUNEPROOF_DATA)" || { echo "TUNEPROOF_DATA=… is missing: the folder that holds tweetsumm/"; exit 1; }
	TUNEPROOF_DATA=$(TUNEPROOF_DATA) python benchmarks/train.py --torch "$(TORCH)" $(if $(ROWS),--rows $(ROWS))

verify: .venv/installed  ## derive every cell of the tables again from the stored rows; names the first that does not hold (STUDY=…)
	@python scripts/verify.py $(if $(filter-out config.yaml,$(STUDY)),--study $(STUDY))

report: .venv/installed  ## Snakemake's own report, with captions (STUDY=…)
	snakemake --report results/snakemake-report.html $(if $(filter-out config.yaml,$(STUDY)),--configfile $(STUDY))

lock:  ## resolve envs/*.in into locks with hashes
	uv pip compile $(RESOLVE) envs/cpu.in -o envs/cpu.lock
	uv pip compile $(RESOLVE) -c envs/cpu.lock envs/dev.in -o envs/dev.lock
	uv pip compile $(RESOLVE_CUDA) -c envs/cpu.lock envs/gpu.in -o envs/gpu.lock
	uv pip compile $(RESOLVE_CUDA) --override envs/judge-overrides.txt envs/judge.in -o envs/judge.lock
	for i in $(IMAGES); do \
	    sed -i "s/^lock_sha256=.*/lock_sha256=$$(sha256sum < envs/$$i.lock | cut -d' ' -f1)/" envs/$$i.post-deploy.sh; \
	done

image: .venv/installed  ## one image, IMAGE=cpu, gpu or judge (BASE=debian: from Debian packages)
	python scripts/build_image.py $(or $(IMAGE),cpu) --base $(BASE)

images: .venv/installed  ## the images for CPU, GPU and judge
	for i in $(IMAGES); do python scripts/build_image.py $$i --base $(BASE) || exit 1; done

clean:  ## remove results, logs, unfinished trainings and crawled corpora; models, environment, reviews and paid calls stay
	rm -rf results logs checkpoints resources/corpora resources/sites
