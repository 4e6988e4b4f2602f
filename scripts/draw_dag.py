"""Draw a study's rules, coloured by where they run: FOLDER/NAME.mmd (mermaid) and FOLDER/NAME.svg (graphviz).

    python scripts/draw_dag.py --study config.yaml --profile profiles/slurm --out docs [--name dag]

The graph is Snakemake's own (--rulegraph), without the edges that others imply. Nothing needs to be done, or undone.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from tuneproof.errors import InputError, report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", required=True, type=Path, help="YAML file that is laid over config.yaml")
    parser.add_argument("--profile", required=True, type=Path, help="folder of the profile, e.g. profiles/slurm")
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    parser.add_argument("--name", default="dag", help="name of the two files")
    args = parser.parse_args()

    from plan_study import dry_run
    from tuneproof import dag
    from tuneproof.records import atomic_write

    _, jobs = dry_run(args.study, args.profile, forceall=True)
    places: dict[str, list[str]] = {}
    for job in jobs:
        known = places.setdefault(job.rule, [])
        if job.where not in known:
            known.append(job.where)
    command = [sys.executable, "-m", "snakemake", "--rulegraph", "mermaid-js", "--configfile", str(args.study)]
    drawn = subprocess.run(command, capture_output=True, text=True, check=False)
    if drawn.returncode:
        raise InputError(f"snakemake --rulegraph: {drawn.stderr.strip().splitlines()[-1]}")
    edges = dag.reduced(dag.edges_of(drawn.stdout))
    with atomic_write(args.out / f"{args.name}.mmd") as stream:
        stream.write(dag.mermaid(places, edges))
    print(args.out / f"{args.name}.mmd")
    if not shutil.which("dot"):
        raise InputError(f"graphviz's `dot` is not on PATH: {args.name}.svg is not drawn, {args.name}.mmd is")
    with atomic_write(args.out / f"{args.name}.svg") as stream:
        source = dag.dot(places, edges)
        stream.write(subprocess.run(["dot", "-Tsvg"], input=source, capture_output=True, text=True, check=True).stdout)
    print(args.out / f"{args.name}.svg")


if __name__ == "__main__":
    main()
