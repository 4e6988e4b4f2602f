"""Turn a crawl, or a folder of files, into pages: text, group, no navigation, no copies.

    python scripts/extract_pages.py --spec '{"crawl": …}' --archive crawl.warc.gz --out pages.jsonl --counts pages.json

The counts say what was dropped on the way; the log names each dropped page.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", required=True, help="the corpus's section of the configuration, as JSON")
    parser.add_argument("--archive", type=Path, help="the WARC; none for a folder")
    parser.add_argument("--out", required=True, type=Path, help="pages to write (JSON Lines)")
    parser.add_argument("--counts", required=True, type=Path, help="counts to write (JSON)")
    args = parser.parse_args()

    from tuneproof.corpus.extract import archived_documents, extract_pages, folder_documents
    from tuneproof.records import write_json, write_rows
    from tuneproof.study import CorpusSpec

    spec = CorpusSpec.parse(args.spec)
    documents = folder_documents(spec.folder) if spec.folder else archived_documents(args.archive)
    pages, counts = extract_pages(documents, spec)
    write_rows(args.out, pages)
    write_json(args.counts, {**counts, "pages": len(pages)})


if __name__ == "__main__":
    main()
