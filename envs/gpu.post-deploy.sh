#!/usr/bin/env bash
# Snakemake runs this in the new conda environment, in its working directory, which is the workflow's folder.
# It keeps an environment as long as this file and gpu.yaml stay as they are: hence the lock's digest (`make lock`).
set -euo pipefail
lock=envs/gpu.lock
lock_sha256=68dccfae82e64d6ff0d907f0dde01c46c5371314a77394bc6e94b96244dab505
if ! sha256sum --check --status <<<"$lock_sha256  $lock"; then
    echo "error: $PWD/$lock is missing or not the one of this script; run in the workflow's folder, after 'make lock'" >&2
    exit 1
fi
export PYTHONNOUSERSITE=1
python=$CONDA_PREFIX/bin/python
"$python" -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r "$lock"
