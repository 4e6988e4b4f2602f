"""Write down what a study's results were made with, and what they took: all that a reader needs to make them again.

    python scripts/write_manifest.py --image containers/cpu.sif … --lock envs/cpu.lock … --data train.jsonl …
        --prompts prompts mine/judge.txt … --model resources/models/X/lock.json … --apis '{"gpt": "gpt-4o"}' --seed 1 …
        --spec results/runs/…/spec.json … --time results/costs/answer/….tsv … --gpus results/answers/….json …
        --usage results/costs/….usage.json … --out results/manifest.json

Code's revision, images or environment, locked packages; digests of data, prompts and models; the names under which APIs
answered; seeds; the hardware of trainings and of all jobs whose GPU hours count; GPU hours; dollars of API calls, null
where one has no price. $TUNEPROOF_DEPLOYMENT says how the jobs were run (apptainer, conda, or in the environment of
whoever started them) and $TUNEPROOF_REVISION of which commit: the run's main process has set both. An image's digest is
computed from the file itself; what it was made of is what its build has written beside it.
"""

import argparse
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError, report_errors

_GPUS = re.compile(r"(\d+) × ")  # what training says of its hardware: "4 × NVIDIA A100", or "2 cores of …"


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", nargs="*", default=[], help="images that the study's rules name")
    parser.add_argument("--lock", nargs="+", required=True, type=Path, help="locked environments")
    parser.add_argument("--data", nargs="*", default=[], type=Path, help="what results rest on: rows, facts, tables")
    parser.add_argument("--prompts", nargs="*", default=[], type=Path, help="prompts, and folders of prompts")
    parser.add_argument("--model", nargs="*", default=[], type=Path, help="locks of the models")
    parser.add_argument("--apis", default="{}", help="models behind APIs, as they are asked for, by id (JSON)")
    parser.add_argument("--seed", nargs="*", default=[], type=int, help="seeds of the trainings")
    parser.add_argument("--spec", nargs="*", default=[], type=Path, help="what each training was made with (JSON)")
    parser.add_argument("--time", nargs="*", default=[], type=Path, help="Snakemake's times of other jobs (TSV)")
    parser.add_argument("--gpus", nargs="*", default=[], type=Path, help="what each of them says of hardware (JSON)")
    parser.add_argument("--usage", nargs="*", default=[], type=Path, help="calls, tokens, dollars of each stage (JSON)")
    parser.add_argument("--out", required=True, type=Path, help="manifest to write (JSON)")
    args = parser.parse_args()

    from tuneproof.records import file_sha256, read_json, write_json

    deployment = os.environ.get("TUNEPROOF_DEPLOYMENT", "the caller's environment")
    images = {}
    for name in args.image if deployment == "apptainer" else []:
        image, record = Path(name), Path(f"{name}.json")
        images[name] = {
            **(read_json(record) if record.exists() else {}),
            "sha256": file_sha256(image) if image.is_file() else None,  # of a registry's image the name is its digest
        }
    specs = {path.parent.as_posix(): read_json(path) for path in args.spec}
    usages = [read_json(path) for path in args.usage]
    apis: dict[str, str] = json.loads(args.apis)

    def digests(paths: Iterable[Path]) -> dict[str, str]:
        return {path.as_posix(): file_sha256(path) for path in paths}

    write_json(
        args.out,
        {
            "revision": os.environ.get("TUNEPROOF_REVISION") or None,
            "deployment": deployment,
            "images": images,
            "locks": digests(args.lock),
            "data": digests(args.data),
            "prompts": digests(sorted(set(files_of(args.prompts)))),
            "models": {lock.parent.name: model_files(read_json(lock)) for lock in args.model},
            "apis": {name: {"model": model, "served": served(usages, model)} for name, model in apis.items()},
            "seeds": args.seed,
            "hardware": {
                **{run: spec.get("hardware") for run, spec in specs.items()},
                **{path.as_posix(): read_json(path).get("hardware") for path in args.gpus},
            },
            "gpu_hours": {
                "training": round(sum(map(training_gpu_hours, specs.values())), 4),
                "other": round(sum(gpu_hours(*job) for job in zip(args.time, args.gpus, strict=True)), 4),
            },
            "dollars": dollars(usages),
        },
    )


def files_of(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield files as they are, and of folders the files inside."""
    for path in paths:
        yield from (file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


def served(usages: list[dict[str, Any]], model: str) -> list[str]:
    """Return the names under which an API has answered for a model, e.g. one with a date."""
    return sorted({name for usage in usages if usage.get("llm") == model for name in usage.get("served", [])})


def model_files(lock: dict[str, Any]) -> dict[str, str]:
    """Return the digest of each file of a model."""
    return {file["name"]: file["sha256"] for file in lock["files"]}


def training_gpu_hours(spec: dict[str, Any]) -> float:
    """Return the hours of a training's steps times its GPUs; 0 on a CPU. Evaluations and loading are not in it."""
    gpus = _GPUS.match(spec.get("hardware") or "")
    return float(spec["train_seconds"]) * int(gpus[1]) / 3600 if gpus else 0.0


def gpu_hours(benchmark: Path, said: Path) -> float:
    """Return the hours of a job, as Snakemake measured them, times its GPUs; else raise InputError."""
    from tuneproof.records import read_json
    from tuneproof.tables import read_csv

    gpus = read_json(said).get("gpus")
    if gpus is None:
        raise InputError(f"{said}: no key gpus, expected how many the job had; without this file it is done again")
    try:
        return sum(float(row["s"]) for row in read_csv(benchmark, "\t")) * int(gpus) / 3600
    except (KeyError, ValueError) as error:
        raise InputError(f"{benchmark}: {error}, expected Snakemake's benchmark with a column s") from None


def dollars(usages: list[dict[str, Any]]) -> float | None:
    """Return what all calls have cost, None where one stage's model has no price."""
    costs = [usage["dollars"] for usage in usages]
    return None if None in costs else round(sum(costs), 6)


if __name__ == "__main__":
    main()
