#!/usr/bin/env bash
# Snakemake runs this in the new conda environment, in its working directory, which is the workflow's folder.
# It keeps an environment as long as this file and cpu.yaml stay as they are: hence the lock's digest (`make lock`).
set -euo pipefail
lock=envs/cpu.lock
lock_sha256=38289dd360165be5141d9f6390a50e3971a5c4377b593256b3f17c82aee508e4
if ! sha256sum --check --status <<<"$lock_sha256  $lock"; then
    echo "error: $PWD/$lock is missing or not the one of this script; run in the workflow's folder, after 'make lock'" >&2
    exit 1
fi
export PYTHONNOUSERSITE=1
python=$CONDA_PREFIX/bin/python
# torch comes first and by itself: its CPU build has hashes of its own (TORCH as in the Makefile)
"$python" -m pip install -qq --disable-pip-version-check ${TORCH:-torch==2.13.0}
"$python" -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r "$lock"
