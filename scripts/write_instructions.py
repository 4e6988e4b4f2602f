"""Have an LLM write how sales calls begin and end, or sales pitches, about chunks of a corpus.

    python scripts/write_instructions.py --spec '{…}' --chunks chunks.jsonl --llm '{…}'
        --model resources/models/X/lock.json --prompt prompts/write_call.txt --store store/llm
        [--parent results/datasets/P] --out written.jsonl --failed unusable.jsonl
        --failed-log logs/unusable.jsonl --usage u.json

Pages get their splits here, because each split is asked about as much as it needs, with something to spare for drops;
with --parent they keep those of the data set whose pairs the calls are made of.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors
from tuneproof.llm.arguments import add_llm_arguments


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_llm_arguments(parser)
    parser.add_argument("--spec", required=True, help="the data set's section of the configuration, as JSON")
    parser.add_argument("--chunks", required=True, type=Path, help="chunks (JSON Lines)")
    parser.add_argument("--parent", type=Path, help="folder of the data set whose pairs calls are made of")
    parser.add_argument("--prompt", required=True, type=Path, help="prompt with the task's gaps")
    parser.add_argument("--out", required=True, type=Path, help="what was written (JSON Lines)")
    parser.add_argument("--failed", required=True, type=Path, help="unusable replies to write (JSON Lines)")
    parser.add_argument("--failed-log", required=True, type=Path, help="the same, where it stays when the stage fails")
    args = parser.parse_args()

    from tuneproof.instructions.write import TASKS, draw_units, written_from
    from tuneproof.llm.client import refuse_above
    from tuneproof.llm.engines import complete_with, usage_of
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.records import Chunk, Example, Pair, read_rows, write_json, write_rows
    from tuneproof.study import InstructionsSpec, Split, parse_dataset, parse_llm

    spec = parse_dataset(args.spec)
    assert isinstance(spec, InstructionsSpec)
    task, what = TASKS[spec.kind], f"write {spec.kind}"
    template = read_prompt(args.prompt, task.GAPS)
    pairs: list[Pair] = []
    splits: dict[str, Split] | None = None
    if args.parent:
        pairs = read_rows(args.parent / "pairs.jsonl", Pair)
        # nothing is cut from train and val: what is in neither is held out, also where its rows were too many
        splits = dict.fromkeys((pair.page_id for pair in pairs), "test_new_pages")
        for split in ("val", "train"):
            splits |= {row.page_id: split for row in read_rows(args.parent / f"{split}.jsonl", Example)}
    units = draw_units(read_rows(args.chunks, Chunk), spec, pairs, splits)
    requests = [task.request(unit, template) for unit in units]
    llm, calls = parse_llm(args.llm, args.calls)
    answered = complete_with(llm, args.model, requests, args.store, what, calls, task.SHAPE)
    written, failed = written_from(units, task, answered)
    for path in (args.failed, args.failed_log):
        write_rows(path, failed)
    refuse_above(spec.max_failed, failed, len(units), args.failed_log)
    write_rows(args.out, written)
    write_json(args.usage, usage_of(what, llm, answered))


if __name__ == "__main__":
    main()
