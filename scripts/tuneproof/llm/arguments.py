"""The arguments of every script that asks an LLM."""

import argparse
import os
from pathlib import Path


def add_llm_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --llm and --model, --store, --calls and --usage."""
    parser.add_argument("--llm", required=True, help="the LLM's section of the configuration, as JSON")
    parser.add_argument("--model", nargs="?", type=Path, help="lock of the LLM's model; empty for an API")
    parser.add_argument("--store", required=True, type=Path, help="folder of the store of calls")
    parser.add_argument(
        "--calls",
        default=os.environ.get("TUNEPROOF_CALLS", ""),
        help="budget, mode and how each API is asked, as JSON; default: $TUNEPROOF_CALLS",
    )
    parser.add_argument("--usage", required=True, type=Path, help="calls and tokens to write (JSON)")
