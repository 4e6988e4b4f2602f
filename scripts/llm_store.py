"""List, verify, compact or export the store of model calls, or print what API calls have cost.

    python scripts/llm_store.py list|verify|compact|ledger [--store store/llm]
    python scripts/llm_store.py export [--engine openai] > calls.jsonl

`compact` joins each engine's segments into one; run it while no study runs. `export` prints every call once.
"""

import argparse
import json
import sys
from pathlib import Path

from tuneproof.errors import InputError, report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=["list", "verify", "compact", "export", "ledger"], help="what to do")
    parser.add_argument("--store", type=Path, default=Path("store/llm"), help="folder of the store of calls")
    parser.add_argument("--engine", default="", help="only engines whose folder begins so")
    args = parser.parse_args()
    if not args.store.is_dir():
        raise InputError(f"{args.store}: no such folder, expected a store of calls")
    if args.act == "ledger":
        ledger(args.store)
        return
    from tuneproof.llm.store import segments

    folders = sorted({s.parent for s in segments(args.store) if s.parent.name.startswith(args.engine)})
    {"list": list_, "verify": verify, "compact": compact, "export": export}[args.act](folders)


def list_(folders: list[Path]) -> None:
    """Print an engine a line: segments, calls, tokens, megabytes."""
    from tuneproof.llm.store import entries

    for folder in folders:
        files = sorted(folder.glob("*.jsonl"))
        replies = {e["key"]: e["reply"] for f in files for e in entries(f)}.values()
        prompt, completion = sum(r.prompt_tokens for r in replies), sum(r.completion_tokens for r in replies)
        size = sum(f.stat().st_size for f in files) / 1e6
        print(
            f"{folder.name}: {len(files)} segments, {len(replies):,} calls, {prompt:,} prompt and {completion:,} "
            f"completion tokens, {size:.1f} MB"
        )


def verify(folders: list[Path]) -> None:
    """Read everything and name each line that is no call, or whose address is not that of its request."""
    from tuneproof.llm.store import calls, misplaced

    whole, twice, damaged = 0, 0, 0
    for folder in folders:
        seen: set[str] = set()
        for line in (line for segment in sorted(folder.glob("*.jsonl")) for line in calls(segment)):
            if line.content is None:
                # a line that its writer did not finish is no fault of the store's
                damaged += line.raw.endswith(b"\n")
                continue
            key = line.content["key"]
            if misplaced(line.content):
                print(f"{line.place}: {key} is not the address of its request", file=sys.stderr)
                damaged += 1
            whole, twice = whole + 1, twice + (key in seen)
            seen.add(key)
    if damaged:
        raise InputError(f"{damaged} damaged lines, {whole - twice:,} other calls; `compact` puts aside what is none")
    print(f"{whole - twice:,} calls of {len(folders)} engines are whole; {twice} are there twice, the first counts")


def compact(folders: list[Path]) -> None:
    """Join segments."""
    from tuneproof.llm import store

    for folder in folders:
        files, calls = store.compact(folder)
        print(f"{folder.name}: {files} segments are one of {calls:,} calls")


def export(folders: list[Path]) -> None:
    """Print every call once, with its engine's folder."""
    from tuneproof.llm.store import entries

    for folder in folders:
        seen: set[str] = set()
        for segment in sorted(folder.glob("*.jsonl")):
            for entry in entries(segment):
                if entry["key"] not in seen:
                    seen.add(entry["key"])
                    plain = {"folder": folder.name, **entry, "reply": entry["reply"].plain()}
                    print(json.dumps(plain, ensure_ascii=False))


def ledger(store: Path) -> None:
    """Print calls, tokens and dollars per stage and provider, and what the budget counts."""
    from tuneproof.llm.budget import by_stage
    from tuneproof.llm.store import LEDGER

    sums = by_stage(store / LEDGER, lambda a: (a.stage, a.llm, a.provider))
    for (stage, llm, provider), a in sums.items():
        print(
            f"{stage}: {llm} at {provider}: {a.calls:,} calls, {a.prompt_tokens:,} prompt ({a.cached_tokens:,} cached) "
            f"and {a.completion_tokens:,} completion tokens, ${a.dollars:.4f}; {a.unanswered} tries without an answer; "
            f"the budget counts {a.claim.tokens:,} tokens and ${a.claim.dollars:.4f}"
        )
    print(f"total: ${sum(a.dollars for a in sums.values()):.4f}")


if __name__ == "__main__":
    main()
