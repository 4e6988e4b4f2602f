"""Write the report: what was asked, the answer with its uncertainty, and the evidence, in one HTML file.

    python scripts/write_report.py --config results/study.json --scores results/tables/scores.csv \
        --rows results/tables/rows.jsonl --figure scores=results/figures/scores.svg loss=… funnel=… \
        --funnel results/datasets/haldrune/funnel.json --retrieval results/datasets/haldrune/retrieval.json \
        --cost results/costs/*.tsv --usage results/costs/*.usage.json \
        --template report/report.html.j2 --out results/report.html

The file fetches nothing: it can be mailed, and read years later.
"""

import argparse
import sys
from pathlib import Path

from tuneproof.errors import InputError, report_errors


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=Path, help="the resolved configuration (JSON)")
    parser.add_argument("--scores", required=True, type=Path, help="the table of scores (CSV)")
    parser.add_argument("--manifest", required=True, type=Path, help="what the results were made with (JSON)")
    parser.add_argument("--rows", required=True, type=Path, help="one object per answer (JSON Lines)")
    parser.add_argument("--tunes", type=Path, help="the table of tunes less tunes (CSV)")
    parser.add_argument("--agreement", type=Path, help="how far judges agree (CSV)")
    parser.add_argument("--trial", nargs="*", default=[], type=Path, help="judges held against people (JSON)")
    parser.add_argument("--figure", nargs="+", default=[], metavar="NAME=PATH", help="scores, loss, funnel (SVG)")
    parser.add_argument("--funnel", nargs="+", default=[], type=Path, help="counts of each data set (JSON)")
    parser.add_argument("--retrieval", nargs="*", default=[], type=Path, help="retrieval counts (JSON)")
    parser.add_argument("--leaks", type=Path, help="what test sets share with training sets (CSV)")
    parser.add_argument("--card", nargs="+", default=[], type=Path, help="cards of the data sets (JSON)")
    parser.add_argument("--runs", type=Path, help="how each training went (CSV)")
    parser.add_argument("--sweep", nargs="*", default=[], type=Path, help="tables of sweeps (JSON)")
    parser.add_argument("--cost", nargs="*", default=[], type=Path, help="Snakemake's benchmark files (TSV)")
    parser.add_argument("--usage", nargs="*", default=[], type=Path, help="calls and tokens of each stage (JSON)")
    parser.add_argument("--estimate", type=Path, help="what the study was expected to take (JSON)")
    parser.add_argument("--template", required=True, type=Path, help="the page's template")
    parser.add_argument("--out", required=True, type=Path, help="report to write (HTML)")
    return parser.parse_args()


@report_errors
def main() -> None:
    """Read everything, render, write the page whole or not at all."""
    args = parse_args()

    from tuneproof.records import atomic_write, iter_json_lines, read_json
    from tuneproof.report.page import FIGURES, Figure, Sources, render
    from tuneproof.report.verdict import parse_scores
    from tuneproof.study import load
    from tuneproof.tables import read_csv

    figures = {}
    for item in args.figure:
        name, _, path = item.partition("=")
        if not (name in FIGURES or name.startswith("sweep.")) or not path:
            raise InputError(f"--figure: {item!r}, expected NAME=PATH with one of: {', '.join(FIGURES)}, sweep.X")
        figures[name] = Figure(Path(path).read_text(encoding="utf-8"), Path(path).with_suffix(".csv").name)

    config = load(read_json(args.config))
    estimate = read_json(args.estimate) if args.estimate else None
    if estimate and estimate["study"] != config.study.name:
        print(
            f"{args.estimate}: of the study {estimate['study']}, not of {config.study.name}: left out", file=sys.stderr
        )
        estimate = None
    page = render(
        args.template.read_text(encoding="utf-8"),
        Sources(
            config=config,
            manifest=read_json(args.manifest),
            scores=parse_scores(read_csv(args.scores), str(args.scores)),
            answers=[row for _, row in iter_json_lines(args.rows)],
            tunes=read_csv(args.tunes) if args.tunes else [],
            agreement=read_csv(args.agreement) if args.agreement else [],
            trials=[read_json(path) for path in args.trial],
            figures=figures,
            funnels=[read_json(path) for path in args.funnel],
            retrieval=[read_json(path) for path in args.retrieval],
            leaks=read_csv(args.leaks) if args.leaks else [],
            cards=[read_json(path) for path in args.card],
            costs={path.as_posix().partition("costs/")[2] or path.name: read_csv(path, "\t") for path in args.cost},
            usage=[read_json(path) for path in args.usage],
            estimate=estimate,
            runs=read_csv(args.runs) if args.runs else [],
            sweeps=[read_json(path) for path in args.sweep],
        ),
    )
    with atomic_write(args.out) as stream:
        stream.write(page)


if __name__ == "__main__":
    main()
