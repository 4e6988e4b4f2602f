"""Do a study's tables follow from its stored rows? Every cell is derived again, every row walked back to its page.

From the ground up, so that the first thing that does not hold is the one that was changed: pages, chunks, what was
written from them, rows of data sets, answers, measures, scores, and at last the tables, by the functions that made
them. An id that is a hash of content is computed anew; what a row must have asked is written anew, and has to be what
its call has asked.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from tuneproof.answers import ask
from tuneproof.corpus import retrieve
from tuneproof.errors import InputError
from tuneproof.fetch.weights import read_lock
from tuneproof.instructions.products import Product
from tuneproof.instructions.requirements import Requirement
from tuneproof.instructions.write import Written
from tuneproof.llm.calls import Reply, Request
from tuneproof.llm.client import Answered, addresses
from tuneproof.llm.prompts import read_prompt
from tuneproof.llm.store import entries, misplaced, segments
from tuneproof.pairs import leaks, write
from tuneproof.pairs.screen import quote_in
from tuneproof.records import (
    Answer,
    Chunk,
    Example,
    Measure,
    Page,
    Pair,
    Reanswer,
    Retrieved,
    Score,
    content_id,
    iter_json_lines,
    read_json,
    read_rows,
)
from tuneproof.scores import judge, pairwise, retrieval, studies
from tuneproof.scores.agreement import agree
from tuneproof.scores.bertscore import BERTSCORE, BertScore
from tuneproof.scores.facts import read_facts
from tuneproof.scores.measure import measure
from tuneproof.scores.table import DIGITS, join, summarise
from tuneproof.study import (
    SPLITS,
    TEST_SPLITS,
    Config,
    DatasetSpec,
    DialoguesSpec,
    Mode,
    NextStepsSpec,
    PitchSpec,
    ReansweredSpec,
    RecommendationSpec,
    Run,
    TypedSpec,
    arm_name,
    arm_path,
    arms,
    corpus_of,
    expand_runs,
    leaks_encoder,
    loads,
    looked_up,
    made,
    sweep_points,
)
from tuneproof.sweeps import table as sweeps
from tuneproof.tables import read_csv, to_csv
from tuneproof.trials import evouna
from tuneproof.trials import table as trials

# An encoder's low bits depend on the machine and on its threads. All else is derived to the last bit.
_ENCODER_TOLERANCE = 1e-4
_DECIMAL = re.compile(r"\d+\.\d+")
_CHECKOUT = Path(__file__).parents[2]
_PUBLISHED = _CHECKOUT / "report" / "published.csv"
_Row = TypeVar("_Row")


@dataclass
class Verifier:
    """One walk over the results below `root`; `done` is called with the name of each file that holds."""

    root: Path
    config: Config
    done: Callable[[str], object] = lambda _: None
    rows: int = 0
    cells: int = 0
    calls: int = 0
    # several where jobs that ran side by side have asked the same: each job's rows keep its own
    _replies: dict[str, list[Reply]] = field(default_factory=dict)
    _engines: dict[str, str] = field(default_factory=dict)  # old lines of a store do not name theirs
    _chunks: dict[str, Chunk] = field(default_factory=dict)
    _marked: dict[str, bool] = field(default_factory=dict)
    _bertscore: BertScore | None = None

    def verify(self) -> None:
        """Walk through everything; raise InputError that names file, line, column and both values where one differs."""
        if spec := self.config.metrics.bertscore:
            self._bertscore = BertScore(self.root / f"resources/models/{spec.encoder}/lock.json", spec.layer)
        examples = self.sources()
        joined = [
            row for run, mode, dataset in arms(self.config) for row in self._arm(run, mode, dataset, examples[dataset])
        ]
        self._trials()
        self._tables(joined)
        self._comparisons(examples)
        self._sweeps()
        self._leaks()
        for name in looked_up(self.config):  # last: another machine's encoder may rank near ties the other way round
            self._retrieval(name)

    def sources(self) -> dict[str, list[Example]]:
        """Walk through corpora and data sets alone; return the test rows of each data set."""
        for entry in (e for segment in segments(self.root / "store" / "llm") for e in entries(segment)):
            if not misplaced(entry):
                self._replies.setdefault(entry["key"], []).append(entry["reply"])
                if "engine" in entry:
                    self._engines[entry["key"]] = entry["engine"]
        for corpus in self._corpora():
            self._corpus(corpus)
        return {name: self._dataset(name) for name in made(self.config)}

    def files(self) -> int:
        """Return how many files `verify` reads: the length of its progress."""
        study = self.config.study
        return (
            2 * len(self._corpora())
            + sum(len(SPLITS) + len(_material_files(self.config, d)) for d in made(self.config))
            + (2 + len(study.judges)) * len(arms(self.config))
            + 7
            + bool(study.judges)
            + (len(study.judges) > 1)
            + 3 * len(list((self.root / "results/tables/studies").glob("*.csv")))
            + len(study.comparisons)
            + bool(study.comparisons)
            + sum(3 + len(self.config.trials[name].judges) for name in study.trials)
            + 4 * len(study.sweeps)
            + 2 * len(looked_up(self.config))
            + 3
        )

    def _corpora(self) -> list[str]:
        return sorted({corpus for name in made(self.config) if (corpus := corpus_of(self.config, name))})

    # --- from pages to rows of data sets ---

    def _corpus(self, corpus: str) -> None:
        folder = self.root / "resources/corpora" / corpus
        pages = {}
        for at, page in self._read(folder / "pages.jsonl", Page):
            self._same(at, "id", page.id, content_id(page.url, page.text))
            pages[page.id] = page
        for at, chunk in self._read(folder / "chunks.jsonl", Chunk):
            page = self._known(at, "page_id", chunk.page_id, pages, "pages.jsonl")
            self._same(at, "url", chunk.url, page.url)
            self._same(at, "group", chunk.group, page.group)
            ids = [content_id(page.id, str(offset), chunk.text) for offset in _places(chunk.text, page.text)]
            if chunk.id not in ids:
                self._differs(at, "id", chunk.id, ids[0] if ids else "none: the page does not hold the text")
            self._chunks[chunk.id] = chunk

    def _dataset(self, name: str) -> list[Example]:
        """Return the test rows of a data set, whose rows all hold."""
        spec, folder = self.config.datasets[name], self.root / "results/datasets" / name
        made_from = self._material(name)
        tests: list[Example] = []
        for split in SPLITS:
            for at, example in self._read(folder / f"{split}.jsonl", Example):
                self._same(at, "split", example.split, split)
                if isinstance(spec, DialoguesSpec):
                    expected = content_id(example.chunk_id, example.question, example.answer, split)
                    self._same(at, "pair_id", example.pair_id, content_id(example.chunk_id, example.answer))
                else:
                    expected = content_id(example.pair_id, example.question, split)
                    answer = self._known(at, "pair_id", example.pair_id, made_from, "what the data set was made from")
                    if answer is not None:
                        self._same(at, "answer", example.answer, answer)
                if isinstance(spec, ReansweredSpec):
                    expected = content_id(expected, example.answer)
                self._same(at, "id", example.id, expected)
                said = [message["content"] for message in example.messages[-2:]]
                self._same(at, "messages", said, [example.question, example.answer])
                if example.chunk_id and not isinstance(spec, DialoguesSpec):
                    chunk = self._known(at, "chunk_id", example.chunk_id, self._chunks, "chunks.jsonl")
                    self._same(at, "page_id", example.page_id, chunk.page_id)
                    self._same(at, "url", example.url, chunk.url)
                if split in TEST_SPLITS:
                    tests.append(example)
        return tests

    def _material(self, name: str) -> dict[str, str | None]:
        """Return what rows were made from, by the id that they know it by: its answer, or None where it has none."""
        found: dict[str, str | None] = {}
        for file in _material_files(self.config, name):
            found = self._MATERIAL[Path(file).name](self, self.root / "results/datasets" / file, found)
        return found

    def _pairs(self, path: Path, _: dict[str, str | None]) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        spec, record = self.config.datasets[path.parent.name], path.with_name("reviewed.jsonl")
        assert isinstance(spec, DatasetSpec)
        mended = {row["new_id"]: row["pair_id"] for _, row in iter_json_lines(record)} if record.exists() else {}
        template = self._prompt("prompts/write_pairs.txt", {"n", "title", "text"})
        for at, pair in self._read(path, Pair):
            self._same(at, "id", pair.id, content_id(pair.chunk_id, pair.question, pair.answer))
            chunk = self._known(at, "chunk_id", pair.chunk_id, self._chunks, "chunks.jsonl")
            self._same(at, "page_id", pair.page_id, chunk.page_id)
            if not quote_in(pair.quote, chunk.text):
                self._differs(at, "quote", pair.quote, "none: the chunk does not hold it")
            [request] = write.requests([chunk], template, spec.pairs_per_chunk)
            wrote = partial(_wrote, chunk=chunk, pair_id=mended.get(pair.id, pair.id), quote=pair.quote)
            reply = self._call(at, pair.call_id, request, write.SHAPE, said=wrote, stored=True)
            if reply and not wrote(reply):
                self._differs(at, "answer", pair.answer, "none: the reply to its call does not hold the pair")
            found[pair.id] = pair.answer
        return found

    def _reanswers(self, path: Path, pairs: dict[str, str | None]) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for at, reanswer in self._read(path, Reanswer):
            self._known(at, "pair_id", reanswer.pair_id, pairs, "pairs.jsonl")
            for chunk_id in reanswer.chunk_ids:
                self._known(at, "chunk_ids", chunk_id, self._chunks, "chunks.jsonl")
            reply = self._call(at, reanswer.call_id, said=_in_one_line, stored=reanswer.answer)
            if reply:
                self._same(at, "answer", reanswer.answer, _in_one_line(reply))
            found[reanswer.pair_id] = reanswer.answer
        return found

    def _requirements(self, path: Path, _: dict[str, str | None]) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for at, need in self._read(path, Requirement):
            self._same(at, "id", need.id, content_id(need.page_id, need.text))
            self._call(at, need.call_id)
            found[need.id] = None
        return found

    def _written(self, path: Path, _: dict[str, str | None]) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for at, written in self._read(path, Written):
            self._same(at, "id", written.id, content_id(written.chunk_id, written.material, written.answer))
            self._known(at, "chunk_id", written.chunk_id, self._chunks, "chunks.jsonl")
            self._call(at, written.call_id)
            found[written.id] = written.answer
        return found

    _MATERIAL: ClassVar[dict[str, Callable[..., dict[str, str | None]]]] = {
        "pairs.jsonl": _pairs,
        "answers.jsonl": _reanswers,
        "requirements.jsonl": _requirements,
        "written.jsonl": _written,
    }

    # --- from answers to tables ---

    def _arm(self, run: Run, mode: Mode, dataset: str, tests: list[Example]) -> list[dict[str, Any]]:
        """Return the rows of one arm, whose answers, measures and scores hold."""
        of_arm, engine = arm_path(run, mode, dataset), self._engine(run)
        examples, answers = {e.id: e for e in tests}, []
        retrieved = self.root / f"results/datasets/{dataset}/retrieved.jsonl"
        found = {row.example_id: row for row in read_rows(retrieved, Retrieved)} if mode == "rag" else {}
        template = self._prompt("prompts/answer_with_context.txt", {"context", "question"})
        requests = ask.requests(tests, mode, self.config.decoding, template, found, self._chunks)
        calls = {e.id: request.key(engine) for e, request in zip(tests, requests, strict=True)}
        for at, answer in self._read(self.root / f"results/answers/{of_arm}.jsonl", Answer):
            example = self._known(at, "example_id", answer.example_id, examples, "the test sets")
            self._same(at, "id", answer.id, content_id(example.id, run.id, mode, answer.call_id))
            for column, expected in (("run", run.id), ("mode", mode), ("split", example.split)):
                self._same(at, column, getattr(answer, column), expected)
            self._same(at, "context_ids", answer.context_ids, ask.context_ids(example, mode, found))
            self._same(at, "call_id", answer.call_id, calls[example.id])
            reply = self._call(at, answer.call_id, said=lambda r: r.text, stored=answer.text)
            if reply:
                self._same(at, "text", answer.text, reply.text)
                self._same(at, "tokens", answer.tokens, reply.completion_tokens)
                self._same(at, "stopped", answer.stopped, reply.finish_reason == "stop")
            answers.append(answer)
        measures = self._measures(of_arm, dataset, tests, answers)
        files = {name: self.root / f"results/scores/{of_arm}.judge-{name}.jsonl" for name in self.config.study.judges}
        scores = [score for name, path in files.items() for score in self._scores(path, name, answers, examples)]
        return join(tests, dataset, arm_name(self.config, run, mode), answers, measures, scores, self._chunks)

    def _engine(self, run: Run) -> str:
        """Return the engine that has answered for a run, as the job that asked it has written it down."""
        load = next(name for name, its in loads(self.config).items() if run in (arm[0] for arm in its))
        path = self.root / f"results/answers/{load}.json"
        engines: dict[str, str] = read_json(path).get("engines", {})
        if run.id not in engines:
            raise InputError(f"{path}: {run.id} is not among its runs, expected one of: {', '.join(engines)}")
        return engines[run.id]

    def _measures(self, of_arm: str, dataset: str, tests: list[Example], answers: list[Answer]) -> list[Measure]:
        folder, corpus = self.root / "results/datasets" / dataset, corpus_of(self.config, dataset)
        facts = self.config.corpora[corpus].facts if corpus else None
        lists = isinstance(self.config.datasets[dataset], RecommendationSpec)
        derived = measure(
            answers,
            tests,
            read_rows(folder / "train.jsonl", Example),
            read_facts(self.root / facts if facts else None),
            stemmer=self.config.metrics.stemmer,
            bertscore=self._bertscore,
            products=read_rows(folder / "products.jsonl", Product) if lists else None,
        )
        path = self.root / f"results/scores/{of_arm}.measures.jsonl"
        stored = list(self._read(path, Measure))
        for (_, row), again in zip(stored, derived, strict=False):
            for metric, value in again.values.items():
                # the encoder runs again here alone: the tables rest on what is stored
                if metric in BERTSCORE and _close(row.values.get(metric), value, _ENCODER_TOLERANCE):
                    again.values[metric] = row.values[metric]
        self._same_rows(stored, derived)
        return [row for _, row in stored]

    def _scores(self, path: Path, name: str, answers: list[Answer], examples: dict[str, Example]) -> list[Score]:
        spec, stored = self.config.judges[name], list(self._read(path, Score))
        if len(stored) != len(answers):
            raise InputError(f"{path}: {len(stored)} scores for {len(answers)} answers, expected one for each")
        asked: list[Request | None] = [None] * len(answers)
        if self._replies:
            asked[:] = judge.requests(answers, examples, self._prompt(spec.prompt, judge.GAPS), spec.scoring)
        derived = []
        for (at, score), answer, request in zip(stored, answers, asked, strict=True):
            said = (score.raw, score.distribution)
            reply = self._call(at, score.call_id, request, said=lambda r: (r.text, r.distribution), stored=said)
            if reply is None:  # without the store a reply that was cut off is known by what was read in it: nothing
                ended = "length" if spec.scoring == "generated" and score.lenient is None else "stop"
                reply = Reply(score.raw, 0, 0, ended, score.distribution)
            derived += judge.scores_from([answer], [Answered(score.call_id, reply)], name, spec.scoring, spec.parser)
        self._same_rows(stored, derived)
        return [score for _, score in stored]

    def _tables(self, derived: list[dict[str, Any]]) -> None:
        tables = self.root / "results/tables"
        path = tables / "rows.jsonl"
        stored = list(iter_json_lines(path))
        if len(stored) != len(derived):
            raise InputError(f"{path}: {len(stored)} rows, {len(derived)} are derived")
        for (number, row), again in zip(stored, derived, strict=True):
            self._same(f"{path} line {number}", "", row, again)
        self.rows += len(stored)
        self.done(path.name)
        study = self.config.study
        made = summarise(derived, study.permutations, study.wished_difference, self._marked)
        scores = to_csv(made.scores, DIGITS)
        self._same_table(tables / "scores.csv", scores)
        self._same_table(tables / "tunes.csv", to_csv(made.tunes, DIGITS))
        if len(study.judges) > 1:
            self._same_table(tables / "agreement.csv", to_csv(agree(derived, self._marked), DIGITS))
        published = read_csv(_PUBLISHED)
        beside = studies.make(_read_back(scores), derived, published, self.config.study.published)
        for name, table in beside.items():
            self._same_table(tables / f"studies/{name}.csv", studies.as_csv(table))
            self._same_text(tables / f"studies/{name}.md", studies.as_markdown(table))
            self._same_text(tables / f"studies/{name}.tex", studies.as_latex(table, name))
        if self.config.study.judges:
            from tuneproof.report.figures import score_distribution

            self._same_table(self.root / "results/figures/scores.csv", to_csv(score_distribution(derived)))
        self._runs()

    def _runs(self) -> None:
        from tuneproof.report.figures import funnel_steps
        from tuneproof.report.training import loss_curve, memory_curve, run_table

        tuned = [run.id for run in expand_runs(self.config) if run.method]

        def read(name: str) -> dict[str, list[dict[str, Any]]]:
            folder = self.root / "results/runs"
            return {run: [row for _, row in iter_json_lines(folder / run / name)] for run in tuned}

        logs, telemetry = read("train_log.jsonl"), read("telemetry.jsonl")
        funnels = [self.root / f"results/datasets/{name}/funnel.json" for name in self.config.study.datasets]
        for name, rows in {
            "tables/runs": run_table(logs, telemetry),
            "figures/loss": loss_curve(logs),
            "figures/memory": memory_curve(telemetry),
            "figures/funnel": funnel_steps(map(read_json, funnels)),
        }.items():
            self._same_table(self.root / f"results/{name}.csv", to_csv(rows))

    def _comparisons(self, examples: dict[str, list[Example]]) -> None:
        """Pairwise choices; without the store only their table, because a row lacks the reply's distribution."""
        lines = []
        for name, spec in self.config.study.comparisons.items():
            stored = list(self._read(self.root / f"results/comparisons/{name}.jsonl", pairwise.Choice))
            chosen = [choice for _, choice in stored]
            lines.extend(pairwise.summarise(name, spec.judge, spec.arms, chosen, self._marked))
            if not self._replies:
                continue
            by_id = {e.id: e for e in examples[spec.datasets[0]]}
            files = [self.root / f"results/answers/{arm}.jsonl" for arm in spec.arms]
            paired = pairwise.pairs(*(read_rows(file, Answer) for file in files))
            if len(stored) != len(paired):
                raise InputError(f"{name}: {len(stored)} choices of {len(paired)} questions, expected one for each")
            template, scoring = self._prompt(spec.prompt, pairwise.GAPS), self.config.judges[spec.judge].scoring
            for (at, choice), pair in zip(stored, paired, strict=True):
                asked = pairwise.requests([pair], by_id, template, scoring)
                self._same(at, "call_ids", len(choice.call_ids), len(asked))
                orders = ((pairwise.taken_first, choice.first), (pairwise.taken_second, choice.second))
                replies = [
                    Answered(call, reply)
                    for call, request, (said, taken) in zip(choice.call_ids, asked, orders, strict=False)
                    if (reply := self._call(at, call, request, said=said, stored=taken))
                ]
                self._same_rows([(at, choice)], pairwise.choices_from([pair], by_id, replies))
        if lines:
            self._same_table(self.root / "results/tables/pairwise.csv", to_csv(lines))

    def _trials(self) -> None:
        """Trials, and which judges they mark."""
        held = []
        for name in self.config.study.trials:
            tables, given = self.root / "results/tables", self.config.trials[name]
            spec = given.model_copy(update={"file": str(self.root / given.path)})
            answers, examples = evouna.as_asked(evouna.draw(spec.path, spec.questions, spec.seed))
            files = {judge: self.root / f"results/trials/{name}/{judge}.jsonl" for judge in spec.judges}
            for judge_name, path in files.items():
                self._scores(path, judge_name, answers, examples)
            trial = trials.hold(spec, files, self.root / f"resources/models/{spec.encoder}/lock.json")
            source = spec.path.name
            self._same_table(tables / f"trial.{name}.csv", to_csv(trials.to_rows(trial)), _ENCODER_TOLERANCE)
            self._same_text(tables / f"trial.{name}.md", trials.to_markdown(name, source, trial), last_digit=True)
            held.append(trials.to_json(name, source, trial))
            self._same_json(tables / f"trial.{name}.json", held[-1], _ENCODER_TOLERANCE)
        self._marked = trials.marked(held)

    def _sweeps(self) -> None:
        from tuneproof.report.sweep import sweep_rows

        for name in self.config.study.sweeps:
            spec, tables = self.config.sweeps[name], self.root / "results/tables"
            compared, said = sweeps.read(spec, sweep_points(self.config, name), self.root / "results/runs")
            of = (name, spec.model, spec.dataset, compared, said)
            self._same_table(tables / f"sweep.{name}.csv", to_csv(sweeps.to_rows(compared)))
            self._same_text(tables / f"sweep.{name}.md", sweeps.to_markdown(*of))
            data = sweeps.to_json(*of)
            self._same_json(tables / f"sweep.{name}.json", data)
            self._same_table(self.root / f"results/figures/sweep.{name}.csv", to_csv(sweep_rows(data)))

    def _retrieval(self, name: str) -> None:
        """Rank the chunks again, by words and by meaning; a reranker is not loaded, its rows are taken as stored."""
        folder, corpus = self.root / "results/datasets" / name, corpus_of(self.config, name)
        assert corpus, "only what a corpus answers is looked up"
        source = self.root / "resources/corpora" / corpus
        examples = [e for split in SPLITS for e in read_rows(folder / f"{split}.jsonl", Example)]
        chunks = read_rows(source / "chunks.jsonl", Chunk)
        given = {row.example_id: row.chunk_ids for row in read_rows(folder / "retrieved.jsonl", Retrieved)}
        index, encoder = source / "index/chunks.faiss", self.config.corpora[corpus].encoder
        if not index.exists():
            raise InputError(f"{index}: no such file, expected the index of the corpus")
        lock = self.root / f"resources/models/{encoder}/lock.json"
        rankings = retrieve.compared([e.question for e in examples], chunks, index, lock)
        rows = retrieval.measure(examples, retrieve.chunk_ids(rankings, chunks))
        derived = retrieval.to_json(name, self.config.retrieval, rows, examples, given, len(chunks))
        if self.config.retrieval.reranker:
            again = iter(derived["retrievers"])
            stored = read_json(folder / "retrieval.json")["retrievers"]
            kept = [row if row["retriever"].endswith(retrieval.RERANKED) else next(again, None) for row in stored]
            derived["retrievers"] = [*kept, *again]
        self._same_json(folder / "retrieval.json", derived)
        measured = TypeAdapter(list[retrieval.Measured]).validate_python(derived["retrievers"])
        self._same_text(folder / "retrieval.md", retrieval.as_markdown(name, measured, len(chunks)))

    def _leaks(self) -> None:
        from tuneproof.corpus.index import Encoder

        lock = self.root / f"resources/models/{leaks_encoder(self.config)}/lock.json"
        encoder, limits = Encoder(lock), self.config.study.leaks
        sets = leaks.read(self.root / "results/datasets" / name for name in made(self.config))
        cells, found = leaks.audit(sets, limits, lambda texts: encoder.embed(texts, "embed texts"))
        self._same_table(self.root / "results/tables/leaks.csv", to_csv([cell.line() for cell in cells]))
        text = leaks.markdown(cells, found, limits, read_lock(lock)["model"])
        self._same_text(self.root / "results/tables/leaks.md", text)
        path = self.root / "results/tables/leaks.jsonl"
        self._same_lines(path, [row for _, row in iter_json_lines(path)], leaks.rows_of(found), 1, _ENCODER_TOLERANCE)

    # --- what is compared, and how it is said ---

    def _read(self, path: Path, row_type: type[_Row]) -> Iterator[tuple[str, _Row]]:
        """Yield a file's rows, each with its place."""
        for number, row in enumerate(read_rows(path, row_type), 1):
            yield f"{path} line {number}", row
            self.rows += 1
        self.done(path.name)

    def _prompt(self, path: str, gaps: set[str]) -> str:
        """Read a prompt of the folder's or, where it has none, of this checkout."""
        own = self.root / path
        return read_prompt(own if own.exists() else _CHECKOUT / path, gaps)

    def _call(
        self,
        at: str,
        call_id: str,
        request: Request | None = None,
        shape: type[BaseModel] | None = None,
        *,
        said: Callable[[Reply], Any] = lambda _: None,
        stored: Any = None,
    ) -> Reply | None:
        """Return the reply to a call, of several the one that `said` what is stored; None where there is no store.

        `request` is what the row must have asked; with `shape` the call may be a repair of it.
        """
        if not self._replies:
            return None
        self.calls += 1
        replies: list[Reply] = self._known(at, "call_id", call_id, self._replies, "the store")
        if request and (engine := self._engines.get(call_id)):
            expected = addresses(request, engine, self._replies, shape)
            if call_id not in expected:
                self._differs(at, "call_id", call_id, expected[0])
        return next((reply for reply in replies if said(reply) == stored), replies[0])

    def _known(self, at: str, column: str, key: str, known: Mapping[str, Any], where: str) -> Any:
        if key not in known:
            raise InputError(f"{at}, {column}: {key!r} is stored, and {where} has no such row")
        return known[key]

    def _same_rows(self, stored: Iterable[tuple[str, Any]], derived: Sequence[Any]) -> None:
        pairs = list(stored)
        if len(pairs) != len(derived):
            raise InputError(f"{pairs[0][0] if pairs else 'no rows'}: {len(pairs)} rows, {len(derived)} are derived")
        for (at, row), again in zip(pairs, derived, strict=True):
            self._same(at, "", dataclasses.asdict(row), dataclasses.asdict(again))

    def _same(self, at: str, column: str, stored: Any, derived: Any, tolerance: float = 0) -> None:
        """Compare two values, of objects and lists cell by cell; raise InputError at the first cell that differs."""
        if isinstance(stored, dict) and isinstance(derived, dict):
            for key in dict.fromkeys((*derived, *stored)):
                name = f"{column}.{key}" if column else str(key)
                self._same(at, name, stored.get(key, "nothing"), derived.get(key, "nothing"), tolerance)
            return
        if isinstance(stored, list) and isinstance(derived, list) and len(stored) == len(derived):
            for number, (value, again) in enumerate(zip(stored, derived, strict=True)):
                self._same(at, f"{column}.{number}", value, again, tolerance)
            return
        self.cells += 1
        if stored != derived and not (tolerance and _close(stored, derived, tolerance)):
            self._differs(at, column, stored, derived)

    def _differs(self, at: str, column: str, stored: Any, derived: Any) -> None:
        raise InputError(f"{at}, {column}: {_short(stored)} is stored, {_short(derived)} is derived")

    def _same_table(self, path: Path, derived: str, tolerance: float = 0) -> None:
        self._same_lines(path, read_csv(path), _read_back(derived), 2, tolerance)

    def _same_lines(
        self, path: Path, stored: Sequence[Any], derived: Sequence[Any], start: int, tolerance: float = 0
    ) -> None:
        """Compare a file line by line; `start` is the number of the first."""
        if len(stored) != len(derived):
            raise InputError(f"{path}: {len(stored)} lines, {len(derived)} are derived")
        for number, (line, again) in enumerate(zip(stored, derived, strict=True), start):
            self._same(f"{path} line {number}", "", line, again, tolerance)
        self.done(path.name)

    def _same_json(self, path: Path, derived: Any, tolerance: float = 0) -> None:
        self._same(str(path), "", read_json(path), json.loads(json.dumps(derived)), tolerance)
        self.done(path.name)

    def _same_text(self, path: Path, derived: str, last_digit: bool = False) -> None:
        """Compare a text line by line; with `last_digit` decimals may differ in their last one."""
        if not path.exists():
            raise InputError(f"{path}: no such file, expected a table")
        stored = path.read_text(encoding="utf-8").splitlines()
        for number, (line, again) in enumerate(itertools.zip_longest(stored, derived.splitlines()), 1):
            if not (last_digit and line and again and nearly(line, again)):
                self._same(f"{path} line {number}", "text", line, again)
        self.done(path.name)


def _wrote(reply: Reply, chunk: Chunk, pair_id: str, quote: str) -> bool:
    """Tell whether a reply about a chunk holds a pair with its quote."""
    try:
        pairs, _ = write.pairs_from([chunk], [Answered("", reply)])
    except ValidationError:
        return False
    return (pair_id, quote) in [(pair.id, pair.quote) for pair in pairs]


def _in_one_line(reply: Reply) -> str:
    return " ".join(reply.text.split())


def _material_files(config: Config, dataset: str) -> list[str]:
    """Return what a data set's rows were made from, below results/datasets, a parent first; dialogues are read."""
    spec = config.datasets[dataset]
    if isinstance(spec, DatasetSpec):
        return [f"{dataset}/pairs.jsonl"]
    if isinstance(spec, TypedSpec):
        return [f"{spec.of}/pairs.jsonl"]
    if isinstance(spec, ReansweredSpec):
        return [f"{spec.of}/pairs.jsonl", f"{dataset}/answers.jsonl"]
    if isinstance(spec, RecommendationSpec):
        return [f"{dataset}/requirements.jsonl"]
    return [f"{dataset}/written.jsonl"] if isinstance(spec, NextStepsSpec | PitchSpec) else []


def _close(stored: Any, derived: Any, tolerance: float) -> bool:
    """Tell whether two numbers, also as a table's cells have them, are nearly the same."""
    try:
        return math.isclose(float(stored), float(derived), rel_tol=0, abs_tol=tolerance)
    except (TypeError, ValueError):
        return False


def nearly(stored: str, derived: str) -> bool:
    """Tell whether two lines are the same but for the last digit of their decimals."""
    one, other = (_DECIMAL.findall(line) for line in (stored, derived))
    if len(one) != len(other) or _DECIMAL.sub("", stored) != _DECIMAL.sub("", derived):
        return False
    digits = [10.0 ** -len(number.partition(".")[2]) for number in one]
    return all(_close(a, b, 1.01 * digit) for a, b, digit in zip(one, other, digits, strict=True))


def _places(text: str, whole: str) -> Iterator[int]:
    place = whole.find(text)
    while place >= 0:
        yield place
        place = whole.find(text, place + 1)


def _read_back(table: str) -> list[dict[str, str]]:
    """Return a table as whoever reads its file sees it."""
    return list(csv.DictReader(io.StringIO(table)))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:80]}…{text[-35:]}"
