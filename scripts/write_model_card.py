"""Write an adapter's model card, as the hub reads it, and the same as data.

python scripts/write_model_card.py --run m/lora/d/seed1 --base '{…}' --student resources/models/m/student/lock.json
    --spec results/runs/m/lora/d/seed1/spec.json --adapter results/runs/m/lora/d/seed1/adapter
    --log train_log.jsonl --telemetry telemetry.jsonl --dataset results/datasets/d/card.json
    --out results/runs/m/lora/d/seed1/adapter/README.md --data results/runs/m/lora/d/seed1/model_card.json
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="the run: model/method/dataset/seedN")
    parser.add_argument("--base", required=True, help="the model's section of the configuration, as JSON")
    parser.add_argument("--student", required=True, type=Path, help="lock of the prepared student")
    parser.add_argument("--spec", required=True, type=Path, help="what shaped the run (JSON)")
    parser.add_argument("--adapter", required=True, type=Path, help="folder of the adapter")
    parser.add_argument("--log", required=True, type=Path, help="the run's log (JSON Lines)")
    parser.add_argument("--telemetry", required=True, type=Path, help="the run's telemetry (JSON Lines)")
    parser.add_argument("--dataset", required=True, type=Path, help="the data set's card (JSON)")
    parser.add_argument("--out", required=True, type=Path, help="card to write (Markdown)")
    parser.add_argument("--data", required=True, type=Path, help="the same as data to write (JSON)")
    args = parser.parse_args()

    from tuneproof.adapters.card import card, markdown
    from tuneproof.fetch.weights import read_lock
    from tuneproof.records import atomic_write, file_sha256, iter_json_lines, read_json, write_json
    from tuneproof.report.training import laid_end_to_end
    from tuneproof.study import ModelSpec

    content = card(
        args.run,
        ModelSpec.parse(args.base),
        read_lock(args.student),
        read_json(args.spec),
        read_json(args.adapter / "adapter_config.json"),
        read_json(args.dataset),
        [row for _, row in iter_json_lines(args.log)],
        laid_end_to_end(row for _, row in iter_json_lines(args.telemetry)),
        file_sha256(args.adapter / "adapter_model.safetensors"),
    )
    write_json(args.data, content)
    with atomic_write(args.out) as stream:
        stream.write(markdown(content))


if __name__ == "__main__":
    main()
