"""Write TensorBoard's event files of every run's log and telemetry: finished runs, and those under way.

    python scripts/write_tensorboard.py --runs results/runs --checkpoints checkpoints --out results/tensorboard

No rule's: it may be called at any time, also while a training goes on, and writes again only what has changed.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from tuneproof.errors import InputError, report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default=Path("results/runs"), type=Path, help="folder of finished runs")
    parser.add_argument("--checkpoints", default=Path("checkpoints"), type=Path, help="folder of runs under way")
    parser.add_argument("--out", default=Path("results/tensorboard"), type=Path, help="folder to write")
    args = parser.parse_args()

    from tuneproof.records import content_id
    from tuneproof.report.tensorboard import folders, is_event_file

    found = folders(args.runs, args.checkpoints)
    if not found:
        raise InputError(f"{args.runs} and {args.checkpoints}: no train_log.jsonl in either, expected a training's")
    # runs that are gone, or under way no longer
    for stale in {path.parent for path in args.out.rglob("*") if is_event_file(path.name)}:
        if stale.relative_to(args.out).as_posix() not in found:
            shutil.rmtree(stale)
    for name, folder in sorted(found.items()):
        texts = [read(folder / file) for file in ("train_log.jsonl", "telemetry.jsonl")]
        target, digest = args.out / name, content_id(*texts)
        written = target / "source.txt"
        if written.exists() and written.read_text(encoding="utf-8") == digest:
            print(f"{name}: as before")
            continue
        write(target, digest, *texts)
        print(f"{name}: written")
    print(f"tensorboard --logdir {args.out}")


def read(path: Path) -> str:
    """Return a file's whole lines: the last one of a training under way may be half written."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text[: text.rfind("\n") + 1]


def write(target: Path, digest: str, log: str, telemetry: str) -> None:
    """Write one run's event file in place of the one before."""
    import json

    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise InputError("tensorboardX is not installed here, expected it (envs/cpu.lock)") from None

    from tuneproof.report.tensorboard import scalars

    rows = [[json.loads(line) for line in text.splitlines() if line.strip()] for text in (log, telemetry)]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".events.") as folder:
        with SummaryWriter(folder) as writer:
            for tag, value, step in scalars(*rows):
                writer.add_scalar(tag, value, step)
        (Path(folder) / "source.txt").write_text(digest, encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target)


if __name__ == "__main__":
    main()
