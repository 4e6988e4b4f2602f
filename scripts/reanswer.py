"""Answer the questions of another data set again, from what was found in the whole corpus (D-RAG).

    python scripts/reanswer.py --name X --spec '{…}' --of results/datasets/Y --retrieved retrieved_for_answers.jsonl
        --chunks chunks.jsonl --llm '{…}' --model resources/models/Z/lock.json
        --prompt prompts/answer_from_documents.txt --store store/llm --out results/datasets/X --usage usage.json

A pair's question is asked in its first wording, and the other wordings take the same answer. An answer that is empty,
says that the documents do not tell, or fails the checks of the pairs' own answers is dropped and counted.
Writes the four splits, answers.jsonl and funnel.json into --out.
"""

import argparse
from pathlib import Path

from tuneproof.errors import InputError, report_errors
from tuneproof.llm.arguments import add_llm_arguments


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_llm_arguments(parser)
    parser.add_argument("--name", required=True, help="the data set's id in the configuration")
    parser.add_argument("--spec", required=True, help="the data set's section of the configuration, as JSON")
    parser.add_argument("--of", required=True, type=Path, help="folder of the data set that has the questions")
    parser.add_argument("--retrieved", required=True, type=Path, help="chunks per question (JSON Lines)")
    parser.add_argument("--chunks", required=True, type=Path, help="chunks (JSON Lines)")
    parser.add_argument("--prompt", required=True, type=Path, help="prompt with {documents} and {question}")
    parser.add_argument("--out", required=True, type=Path, help="folder of the data set")
    args = parser.parse_args()

    from tuneproof.llm.engines import complete_with, usage_of
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.pairs import reanswer
    from tuneproof.records import Chunk, Example, Retrieved, read_rows, write_json, write_rows
    from tuneproof.study import SPLITS, ReansweredSpec, parse_llm

    spec = ReansweredSpec.parse(args.spec)
    template = read_prompt(args.prompt, {"documents", "question"})
    parent = {split: read_rows(args.of / f"{split}.jsonl", Example) for split in SPLITS}
    asked = reanswer.first_wordings([row for rows in parent.values() for row in rows])
    chunks = {chunk.id: chunk for chunk in read_rows(args.chunks, Chunk)}
    documents = reanswer.documents_of(read_rows(args.retrieved, Retrieved), chunks, asked)
    requests = reanswer.requests(asked, documents, template, spec.max_tokens)
    llm, calls = parse_llm(args.llm, args.calls)
    answered = complete_with(llm, args.model, requests, args.store, "reanswer", calls)
    answers = reanswer.answers_from(asked, documents, answered)
    write_rows(args.out / "answers.jsonl", answers)
    splits = {split: reanswer.with_answers(rows, answers) for split, rows in parent.items()}
    for split, rows in splits.items():
        if not rows:
            why = ", ".join(f"{reason} {count}" for reason, count in reanswer.reasons(answers).items())
            raise InputError(f"split {split} of {args.name} is empty: of {len(answers)} answers were dropped: {why}")
        write_rows(args.out / f"{split}.jsonl", rows)
    counts = reanswer.funnel(args.name, answers, parent, splits, chunks)
    write_json(args.out / "funnel.json", counts)
    write_json(args.usage, usage_of("reanswer", llm, answered))


if __name__ == "__main__":
    main()
