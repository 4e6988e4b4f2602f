"""D-RAG: the questions of another data set, answered again from what was found in the whole corpus.

Question and pair keep their id and only the answer changes, so that the two data sets are compared row by row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tuneproof.corpus.index import searched_text
from tuneproof.errors import InputError
from tuneproof.llm.calls import Request
from tuneproof.llm.client import Answered
from tuneproof.llm.prompts import fill
from tuneproof.pairs.screen import answer_fault, content_words
from tuneproof.records import Chunk, Example, Reanswer, Retrieved, content_id

_UNKNOWN = re.compile(r"\W*i (?:do not|don['’]t) know\b", re.IGNORECASE)


def first_wordings(rows: Sequence[Example]) -> list[Example]:
    """Return the first row of each pair; with the training rows first, that is the question as it was written."""
    first: dict[str, Example] = {}
    for row in rows:
        first.setdefault(row.pair_id, row)
    return list(first.values())


def requests(asked: list[Example], documents: dict[str, list[Chunk]], template: str, max_tokens: int) -> list[Request]:
    """Return one request per question. `documents` maps its row's id to the chunks it is answered from, best first."""
    return [
        Request(
            [
                {
                    "role": "user",
                    "content": fill(template, documents=_numbered(documents[e.id]), question=e.question),
                }
            ],
            max_tokens,
        )
        for e in asked
    ]


def answers_from(asked: list[Example], documents: dict[str, list[Chunk]], answered: list[Answered]) -> list[Reanswer]:
    """Return an answer per pair, those included that are dropped, with the reason.

    The checks are those of the pairs' own answers, against all documents that the model was shown.
    """
    rows = []
    for example, answer in zip(asked, answered, strict=True):
        text = " ".join(answer.reply.text.split())
        shown = documents[example.id]
        dropped = _dropped(example.question, text, shown, answer)
        rows.append(Reanswer(example.pair_id, example.question, text, [c.id for c in shown], answer.call_id, dropped))
    return rows


def with_answers(rows: list[Example], answers: list[Reanswer]) -> list[Example]:
    """Return the rows whose pair has an answer, each with that answer: same pair, question and split."""
    kept = {a.pair_id: a.answer for a in answers if a.dropped is None}
    return [_with_answer(row, kept[row.pair_id]) for row in rows if row.pair_id in kept]


def documents_of(rows: list[Retrieved], chunks: dict[str, Chunk], asked: list[Example]) -> dict[str, list[Chunk]]:
    """Return the chunks that were found for each question by the id of its row."""
    found = {row.example_id: row.chunk_ids for row in rows}
    documents = {}
    for example in asked:
        if example.id not in found:
            raise InputError(f"example {example.id}: nothing was retrieved for it, expected a row for each")
        documents[example.id] = [chunks[c] for c in found[example.id]]
    return documents


def funnel(
    dataset: str,
    answers: list[Reanswer],
    parent: Mapping[str, list[Example]],
    splits: Mapping[str, list[Example]],
    chunks: dict[str, Chunk],
) -> dict[str, Any]:
    """Count the steps, the reasons for drops, and the training answers that had a held-out page among their documents.

    Retrieval sees the whole corpus, so a training answer may rest on a page that the tests hold out: it is counted.
    Held out are the pages of the parent's splits: one whose own answers were dropped still is.
    """
    held_out = {row.page_id for split in ("val", "test_new_pages") for row in parent[split]}
    trained = {row.pair_id for row in splits["train"]}
    shown = [a for a in answers if a.pair_id in trained and any(chunks[c].page_id in held_out for c in a.chunk_ids)]
    return {
        "dataset": dataset,
        "steps": [
            {"step": "questions asked again", "count": len(answers)},
            {"step": "answers kept", "count": sum(a.dropped is None for a in answers)},
            {"step": "training answers that were shown a held-out page", "count": len(shown)},
            {"step": "training rows (all wordings)", "count": len(splits["train"])},
        ],
        "dropped": reasons(answers),
        "splits": {split: len(rows) for split, rows in splits.items()},
    }


def reasons(answers: list[Reanswer]) -> dict[str, int]:
    """Return why answers were dropped, the commonest reason first."""
    return dict(Counter(a.dropped for a in answers if a.dropped).most_common())


def _numbered(documents: list[Chunk]) -> str:
    return "\n\n".join(f"[Document {n}]\n{searched_text(chunk)}" for n, chunk in enumerate(documents, 1))


def _dropped(question: str, text: str, documents: list[Chunk], answer: Answered) -> str | None:
    if answer.fault:
        return "no usable reply"
    if not text:
        return "reply is empty"
    if _UNKNOWN.match(text):
        return "the documents do not tell"
    if answer.reply.finish_reason == "length":
        return "answer is cut off"
    if not content_words(text) & content_words(question):
        return "answer does not take up its question"  # the prompt asks for its subject; a page's order gives another
    return answer_fault(question, text, "\n\n".join(searched_text(chunk) for chunk in documents))


def _with_answer(row: Example, answer: str) -> Example:
    return Example(
        **{
            **vars(row),
            "id": content_id(row.id, answer),
            "answer": answer,
            "messages": [{"role": "user", "content": row.question}, {"role": "assistant", "content": answer}],
        }
    )
