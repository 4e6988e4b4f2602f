"""Fine-tune one adapter; killed at any moment, the next attempt resumes.

    python scripts/train.py --spec '{"kind": "lora", …}' --student resources/models/X/student/lock.json
        --train train.jsonl --val val.jsonl --seed 1 --checkpoints checkpoints/RUN --out results/runs/RUN

Writes adapter/ (safetensors, with tokenizer and template), train_log.jsonl (loss, evaluation loss, learning rate,
gradient norm by step) and spec.json (recipe, seed, digests of model and data).

With --devices N it runs as N processes under torchrun; a full step sees the same examples whatever N is. With
--time-budget-min it saves a checkpoint and leaves with exit code 75 before the budget is used up; SIGTERM does the
same at once.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", required=True, help="the method's section of the configuration, as JSON")
    parser.add_argument("--student", required=True, type=Path, help="lock of the prepared student")
    parser.add_argument("--train", required=True, type=Path, help="training examples (JSON Lines)")
    parser.add_argument("--val", required=True, type=Path, help="validation examples (JSON Lines)")
    parser.add_argument("--seed", required=True, type=int, help="seed of initialisation, order and dropout")
    parser.add_argument("--checkpoints", required=True, type=Path, help="folder name of checkpoints; a hash is added")
    parser.add_argument("--out", required=True, type=Path, help="folder of the run")
    parser.add_argument("--devices", type=int, default=1, help="processes, one for each GPU")
    parser.add_argument("--time-budget-min", type=float, default=0, help="minutes until the job is killed; 0: no limit")
    parser.add_argument(
        "--may-diverge", action="store_true", help="a loss that is no number ends the training with what there is"
    )
    args = parser.parse_args()

    if args.devices > 1 and "RANK" not in os.environ:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # Snakemake's; torch goes by MKL's
            if threads := os.environ.get(name):
                os.environ[name] = str(max(1, int(threads) // args.devices))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={args.devices}"]
        # after a SIGTERM the processes finish their step and save, in what the profile's signal leaves them
        torchrun += ["--shutdown-timeout", "270"]
        os.execv(sys.executable, [*torchrun, *sys.argv])

    from tuneproof.training.interruption import OUT_OF_TIME, Interrupted, Stop

    stop = Stop(args.time_budget_min, began)  # before the slow imports: a signal may come at any moment

    from tuneproof.study import parse_method
    from tuneproof.training.tune import Task, tune

    spec = parse_method(args.spec)
    task = Task(args.student, args.train, args.val, args.seed, args.checkpoints, args.out, args.may_diverge)
    try:
        tune(spec, task, stop)
    except Interrupted as interrupted:
        print(f"train: {interrupted.reason}; the next attempt goes on at step {interrupted.step}", file=sys.stderr)
        sys.exit(OUT_OF_TIME)


if __name__ == "__main__":
    main()
