"""Read a GGUF once into the folder that OpenVINO loads.

    python scripts/prepare_llm.py --lock resources/models/X/lock.json --out resources/models/X/openvino/lock.json

A job that asks the model then loads it in a third of the time, and gets the same replies.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", required=True, type=Path, help="lock of the fetched model, a GGUF")
    parser.add_argument("--out", required=True, type=Path, help="lock of the model as OpenVINO loads it")
    args = parser.parse_args()

    from tuneproof.fetch.openvino import prepare_llm

    prepare_llm(args.lock, args.out)


if __name__ == "__main__":
    main()
