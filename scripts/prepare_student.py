"""Turn fetched weights into a transformers folder that can be trained and served.

    python scripts/prepare_student.py --lock resources/models/X/lock.json --out resources/models/X/student/lock.json

Dequantises GGUF once, gives the tokenizer a pad token that is not EOS, and sets the true context length.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", required=True, type=Path, help="lock of the fetched model")
    parser.add_argument("--chat-template", nargs="?", type=Path, help="Jinja file; empty: the tokenizer's own")
    parser.add_argument("--out", required=True, type=Path, help="lock of the prepared student")
    args = parser.parse_args()

    from tuneproof.fetch.student import prepare_student

    prepare_student(args.lock, args.out, args.chat_template)


if __name__ == "__main__":
    main()
