"""Have an LLM write customers' requirements that a product meets, without its name.

    python scripts/write_requirements.py --spec '{…}' --chunks chunks.jsonl --llm '{…}'
        --model resources/models/X/lock.json --prompt prompts/write_requirements.txt --store store/llm
        --products products.jsonl --out requirements.jsonl --failed unusable.jsonl
        --failed-log logs/unusable.jsonl --usage u.json

The products are a corpus's pages or the rows of a catalogue; each gets its split here. A name that two products share
is kept once.
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
    parser.add_argument("--chunks", nargs="?", type=Path, help="chunks (JSON Lines); empty for a catalogue")
    parser.add_argument("--prompt", required=True, type=Path, help="prompt with {n}, {avoid}, {description}")
    parser.add_argument("--products", required=True, type=Path, help="products to write (JSON Lines)")
    parser.add_argument("--out", required=True, type=Path, help="requirements to write (JSON Lines)")
    parser.add_argument("--failed", required=True, type=Path, help="unusable replies to write (JSON Lines)")
    parser.add_argument("--failed-log", required=True, type=Path, help="the same, where it stays when the stage fails")
    args = parser.parse_args()

    from dataclasses import replace

    from tuneproof.errors import InputError
    from tuneproof.instructions import requirements
    from tuneproof.instructions.draw import SPARE, assign, in_turns, quotas, take
    from tuneproof.instructions.products import distinct, from_catalogue, from_chunks
    from tuneproof.llm.client import refuse_above
    from tuneproof.llm.engines import complete_with, usage_of
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.records import Chunk, read_rows, write_json, write_rows
    from tuneproof.study import RecommendationSpec, parse_llm

    spec = RecommendationSpec.parse(args.spec)
    template = read_prompt(args.prompt, {"n", "avoid", "description"})
    if spec.catalogue_file:
        found = from_catalogue(spec.catalogue_file)
    elif args.chunks:
        found = from_chunks(read_rows(args.chunks, Chunk), spec.group)
    else:
        raise InputError(f"--chunks: missing, expected the chunks of corpus {spec.corpus}")
    products, copies = distinct(found)
    splits = assign({p.page_id: p.category for p in products}, spec)
    products = [replace(p, split=splits[p.page_id]) for p in products]
    asked = take(in_turns(products, lambda p: p.page_id), lambda p: p.split, quotas(spec), SPARE)
    avoided = requirements.distinctive(products)
    n = requirements.each(spec.rows, len(asked))
    llm, calls = parse_llm(args.llm, args.calls)
    requests = requirements.requests(asked, avoided, template, n)
    answered = complete_with(llm, args.model, requests, args.store, "write requirements", calls, requirements.SHAPE)
    written, failed = requirements.requirements_from(asked, answered)
    for path in (args.failed, args.failed_log):
        write_rows(path, failed)
    refuse_above(spec.max_failed, failed, len(asked), args.failed_log)
    write_rows(args.products, products)
    write_rows(args.out, written)
    write_json(args.usage, usage_of("write requirements", llm, answered))
    print(f"{len(products)} products, {len(copies)} left out: another has their name", flush=True)


if __name__ == "__main__":
    main()
