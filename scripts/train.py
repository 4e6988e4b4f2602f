"""Fine-tune one adapter; killed at any moment, the next attempt resumes.

    python scripts/train.py --spec '{"kind": "lora", …}' --student resources/models/X/student/lock.json
        --train train.jsonl --val val.jsonl --seed 1 --checkpoints checkpoints/RUN --out results/runs/RUN

Writes adapter/ (safetensors, with tokenizer and template), train_log.jsonl (loss, evaluation loss, learning rate,
gradient norm by step) and spec.json (recipe, seed, digests of model and data).
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", required=True, help="the method's section of the configuration, as JSON")
    parser.add_argument("--student", required=True, type=Path, help="lock of the prepared student")
    parser.add_argument("--train", required=True, type=Path, help="training examples (JSON Lines)")
    parser.add_argument("--val", required=True, type=Path, help="validation examples (JSON Lines)")
    parser.add_argument("--seed", required=True, type=int, help="seed of initialisation, order and dropout")
    parser.add_argument("--checkpoints", required=True, type=Path, help="folder name of checkpoints; a hash is added")
    parser.add_argument("--out", required=True, type=Path, help="folder of the run")
    args = parser.parse_args()

    from tuneproof.study import LoRA
    from tuneproof.training.lora import train

    spec = LoRA.parse(args.spec)
    train(spec, args.student, args.train, args.val, args.seed, args.checkpoints, args.out)


if __name__ == "__main__":
    main()
