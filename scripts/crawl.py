"""Crawl a corpus's websites into a WARC; killed at any moment, the next attempt fetches nothing twice.

    python scripts/crawl.py --spec '{"start": ["http://www.haldrune.test/"], …}' --out resources/corpora/X/crawl.warc.gz
        --counts resources/corpora/X/crawl.json

robots.txt is obeyed. A site that is a folder on this machine is served on loopback, over HTTP, while it is crawled.
"""

import argparse
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from tuneproof.errors import InputError, report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", required=True, help="the corpus's `crawl` section, as JSON")
    parser.add_argument("--name", default="", help="the corpus's id in the configuration, to find its pace by")
    parser.add_argument(
        "--pace",
        default=os.environ.get("TUNEPROOF_PACE", ""),
        help="how politely each corpus is crawled, as JSON; default: $TUNEPROOF_PACE, else as --spec says",
    )
    parser.add_argument("--out", required=True, type=Path, help="the WARC to write (.warc.gz)")
    parser.add_argument("--counts", type=Path, help="pages, and why URLs gave none, to write (JSON)")
    args = parser.parse_args()

    from tuneproof.corpus.crawl import crawl
    from tuneproof.corpus.serve import serve
    from tuneproof.records import write_json
    from tuneproof.study import parse_crawl

    spec = parse_crawl(args.spec, args.name, args.pace)
    folder = Path(os.path.expandvars(spec.serve.folder)) if spec.serve else Path()
    if not folder.is_dir():
        raise InputError(f"crawl.serve.folder: {str(folder)!r} is no folder, expected one of HTML files")
    with serve(folder, spec.serve.host) if spec.serve else nullcontext() as proxy:
        visit = crawl(spec, args.out, proxy)
    if args.counts:
        write_json(args.counts, visit.counts())
    print(
        f"{visit.pages} pages, {visit.from_archive} of them from an earlier attempt; "
        f"{len(visit.failures)} requests gave none",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
