"""Turn a crawl, or a folder of files, into pages: text, group, no navigation, no copies.

    python scripts/extract_pages.py --spec '{"groups": …}' --archive crawl.warc.gz --out pages.jsonl --counts pages.json

The counts say what was dropped on the way; the log names each dropped page. Pages are read, compared and written one
by one: memory does not grow with the corpus, the scratch file beside the pages does.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", required=True, help="folder, groups, languages, near_duplicate of the corpus (JSON)")
    parser.add_argument("--archive", type=Path, help="the WARC; none for a folder")
    parser.add_argument("--out", required=True, type=Path, help="pages to write (JSON Lines)")
    parser.add_argument("--counts", required=True, type=Path, help="counts to write (JSON)")
    parser.add_argument("--processes", type=int, default=1, help="processes that read documents")
    args = parser.parse_args()

    from tuneproof.corpus.extract import archived_documents, extract_pages, folder_documents
    from tuneproof.records import write_json, write_rows
    from tuneproof.study import Extraction

    spec = Extraction.parse(args.spec)
    documents = folder_documents(spec.folder) if spec.folder else archived_documents(args.archive)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    # the scratch file beside the pages: /tmp may be memory, and small
    pages, counts = extract_pages(documents, spec, args.processes, args.out.parent)
    write_rows(args.out, pages)
    write_json(args.counts, counts)


if __name__ == "__main__":
    main()
