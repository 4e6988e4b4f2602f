"""What was changed by one digit, or has lost its source, is named; a study that nobody touched holds."""

import itertools
import json
import shutil
from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from tuneproof.answers.ask import answers_from
from tuneproof.answers.ask import requests as questions_to
from tuneproof.corpus.index import Encoder, searched_text, write_index
from tuneproof.corpus.retrieve import rank
from tuneproof.dialogues import rows as dialogues
from tuneproof.dialogues.layouts import Dialogue, Turn
from tuneproof.instructions import recommend, write
from tuneproof.instructions.products import Product
from tuneproof.instructions.recommend import Ranked
from tuneproof.instructions.requirements import Requirement
from tuneproof.instructions.write import Written
from tuneproof.llm.calls import Reply, Request
from tuneproof.llm.client import Answered, complete_structured
from tuneproof.llm.prompts import read_prompt
from tuneproof.llm.store import Store
from tuneproof.pairs import write as writer
from tuneproof.pairs.reanswer import with_answers
from tuneproof.pairs.review import Decision, follow
from tuneproof.pairs.split import make_examples
from tuneproof.records import (
    Answer,
    Chunk,
    Example,
    Page,
    Pair,
    Phrasing,
    Reanswer,
    Retrieved,
    Score,
    atomic_write,
    content_id,
    read_json,
    read_rows,
    write_json,
    write_rows,
)
from tuneproof.scores import judge, pairwise, retrieval
from tuneproof.scores.bertscore import BertScore
from tuneproof.scores.facts import read_facts
from tuneproof.scores.measure import measure
from tuneproof.study import SPLITS, arm_name, expand_runs, load, sweep_points
from tuneproof.trials import evouna

MODEL = {"licence": "x", "format": "transformers", "context": 64, "hub": {"repo": "a/b", "revision": "0" * 40},
         "files": [{"name": "f", "sha256": "0" * 64, "size": 1}]}  # fmt: skip
CONFIG = load(
    {
        "study": {
            "name": "small", "title": "?", "models": ["m"], "methods": ["lora"], "datasets": ["d"], "seeds": [1],
            "base_modes": ["closed"], "judges": ["j"], "permutations": 1000, "published": {"d": "d-naive"},
            "sweeps": ["s"], "trials": ["t"],
            "comparisons": {"tuned": {"judge": "j", "arms": ["m/lora/d/seed1/d.closed", "m/base/d.closed"]}},
        },
        "sweeps": {"s": {"model": "m", "method": "lora", "dataset": "d", "grid": {"rank": [4, 8]}, "seeds": [1, 2]}},
        "trials": {"t": {"file": "judged.json", "questions": 4, "encoder": "m", "layer": 5, "judges": ["j"]}},
        "corpora": {
            "c": {"folder": {"path": "x"}, "encoder": "m", "facts": "facts.jsonl", "chunks": {"max_tokens": 32}}
        },
        "datasets": {"d": {"corpus": "c", "llm": "w", "splits": {"test_pages": 0.3, "val_pages": 0.2}}},
        "models": {"m": MODEL},
        "methods": {
            "lora": {"kind": "lora", "epochs": 1, "learning_rate": 1e-3, "batch_size": 1, "rank": 4, "alpha": 8}
        },
        "llms": {"w": {"engine": "openvino", "model": "m"}},
        "judges": {"j": {"llm": "w"}},
    }
)  # fmt: skip
TUNE = "m/lora/d/seed1"


def ask(folder, engine, request, text, distribution=None):
    """Put a reply to a call into the store, as an engine would; return it as answered."""
    key, reply = request.key(engine), Reply(text, 5, 3, "stop", distribution or {})
    Store(folder / "store/llm", engine).put([(key, request, reply)], sync=False)
    return Answered(key, reply)


def say(text):
    """A request of which nothing is known but its text."""
    return Request([{"role": "user", "content": text}], 9)


def write_pairs(folder, template, chunks):
    """A pair about each chunk: the first was JSON at the second try only, the second is mended by a reviewer."""
    pairs = []
    for n, chunk in enumerate(chunks):
        written = {"quote": chunk.text, "question": f"What power has CV{n}?", "answer": f"It has {10 + n} megawatts."}
        said = ["Here you are."] * (n == 0) + [json.dumps({"pairs": [written]})]
        requests = writer.requests([chunk], template, CONFIG.datasets["d"].pairs_per_chunk)
        answered = complete_structured(
            requests, writer.SHAPE, lambda asked, said=said: [ask(folder, "writer", asked[0], said.pop(0))]
        )
        pairs += writer.pairs_from([chunk], answered)[0]
    mend = Decision(pairs[1].id, "mend", "ann", "", "It has 11 megawatts in all.", "", "ann.jsonl line 1")
    pairs, _, record = follow(pairs, {pair.id: pair for pair in pairs}, [mend])
    write_rows(folder / "results/datasets/d/pairs.jsonl", pairs)
    write_rows(folder / "results/datasets/d/reviewed.jsonl", record)
    return pairs


def write_retrieved(folder, tests, chunks):
    """The index of the chunks, and what is found in it for each test question."""
    lock, index = folder / "resources/models/m/lock.json", folder / "resources/corpora/c/index/chunks.faiss"
    with atomic_write(index, "wb") as stream:
        write_index(stream, [Encoder(lock).embed([searched_text(chunk) for chunk in chunks], "embed chunks")])
    found = rank("dense", [e.question for e in tests], chunks, index, lock)
    rows = [
        Retrieved(e.id, [chunks[i].id for i, _ in best[:2]], [score for _, score in best[:2]])
        for e, best in zip(tests, found, strict=True)
    ]
    write_rows(folder / "results/datasets/d/retrieved.jsonl", rows)


def write_comparison(folder, template, tests):
    """A judge that takes the tune's answer in the first place, and the second answer half of the time."""
    results, by_id = folder / "results", {e.id: e for e in tests}
    arms = [read_rows(results / f"answers/{arm}.jsonl", Answer) for arm in CONFIG.study.comparisons["tuned"].arms]
    paired = pairwise.pairs(*arms)
    leans = [lean for n in range(len(paired)) for lean in (0.9, 0.3 + 0.4 * (n % 2))]
    replies = [
        ask(folder, "judge", request, "A", {"A": lean, "B": 1 - lean})
        for request, lean in zip(pairwise.requests(paired, by_id, template, "expected"), leans, strict=True)
    ]
    write_rows(results / "comparisons/tuned.jsonl", pairwise.choices_from(paired, by_id, replies))


def write_trial(folder, template):
    """Answers that people have judged, and a judge's scores of them."""
    items = [
        {
            "question": f"What is {n} times 2?", "golden_answer": f"{2 * n}/twice {n}", "improper": False,
            "answer_x": f"It is {2 * n}.", "judge_x": True, "answer_y": f"It is {2 * n + 1}.", "judge_y": False,
        }
        for n in range(3, 9)
    ]  # fmt: skip
    write_json(folder / "judged.json", items)
    spec = CONFIG.trials["t"]
    answers, examples = evouna.as_asked(evouna.draw(folder / "judged.json", spec.questions, spec.seed))
    requests = judge.requests(answers, examples, template)
    replies = [ask(folder, "judge", request, "3", dict.fromkeys("12345", 0.2)) for request in requests]
    path = folder / "results/trials/t/j.jsonl"
    write_rows(path, judge.scores_from(answers, replies, "j"))
    return path


@pytest.fixture(scope="module")
def study(root, run_script, encoder, tmp_path_factory):
    """A whole study of ten pages by the functions and scripts that make a real one; language models are left out."""
    folder = tmp_path_factory.mktemp("study")
    results = folder / "results"
    gaps = {
        "write_pairs": {"n", "title", "text"}, "answer_with_context": {"context", "question"},
        "judge.paper": judge.GAPS, "compare": pairwise.GAPS,
    }  # fmt: skip
    told = {name: read_prompt(root / f"prompts/{name}.txt", found) for name, found in gaps.items()}
    (folder / "resources/models").mkdir(parents=True)
    (folder / "resources/models/m").symlink_to(encoder)
    sentences = [f"CV{n} has {10 + n} megawatts." for n in range(10)]
    pages = [
        Page(
            content_id(f"http://x.test/{n}", f"# CV{n}\n\n{s}"),
            f"http://x.test/{n}",
            "g",
            f"CV{n}",
            f"# CV{n}\n\n{s}",
            "",
        )
        for n, s in enumerate(sentences)
    ]
    chunks = [
        Chunk(content_id(p.id, str(p.text.index(s)), s), p.id, p.url, p.group, [p.title], s, 8)
        for p, s in zip(pages, sentences, strict=True)
    ]
    pairs = write_pairs(folder, told["write_pairs"], chunks)
    phrasings = [
        Phrasing(p.id, [f"How many megawatts has CV{n}?"], ask(folder, "writer", say(p.question), "{}").call_id)
        for n, p in enumerate(pairs)
    ]
    splits = make_examples(pairs, phrasings, {c.id: c for c in chunks}, CONFIG.datasets["d"].splits)
    facts = [
        {"id": f"f{n}", "path": f"/{n}", "subject": f"CV{n}", "attribute": "power", "value": f"{10 + n} megawatts",
         "aliases": []} for n in range(10)
    ]  # fmt: skip
    write_rows(folder / "facts.jsonl", facts)
    write_rows(folder / "resources/corpora/c/pages.jsonl", pages)
    write_rows(folder / "resources/corpora/c/chunks.jsonl", chunks)
    for split, rows in splits.items():
        write_rows(results / f"datasets/d/{split}.jsonl", rows)
    write_json(results / "datasets/d/funnel.json", {"dataset": "d", "steps": [{"step": "pairs", "count": 10}]})
    tests = [*splits["test_trained_pages"], *splits["test_new_pages"]]
    by_id = {e.id: e for e in tests}
    write_retrieved(folder, tests, chunks)
    arms = []
    for each, engine, said in zip(expand_runs(CONFIG), ("base", "tuned"), ("I do not know.", ""), strict=True):
        run, requests = each.id, questions_to(tests, "closed", CONFIG.decoding, told["answer_with_context"], {}, {})
        answered = [ask(folder, engine, r, said or e.answer) for r, e in zip(requests, tests, strict=True)]
        answers = answers_from(tests, answered, run, "closed", {})
        write_json(results / f"answers/{run}/load0.json", {"engines": {run: engine}, "gpus": 0})
        lean = {"1": 0.1, "2": 0.2, "3": 0.3, "4": 0.2, "5": 0.2}
        requests = judge.requests(answers, by_id, told["judge.paper"])
        judged = judge.scores_from(answers, [ask(folder, "judge", r, "3", lean) for r in requests], "j")
        measures = measure(answers, tests, splits["train"], read_facts(folder / "facts.jsonl"))
        files = {
            "answers": (results / f"answers/{run}/d.closed.jsonl", answers),
            "measures": (results / f"scores/{run}/d.closed.measures.jsonl", measures),
            "scores": (results / f"scores/{run}/d.closed.judge-j.jsonl", judged),
        }
        for path, rows in files.values():
            write_rows(path, rows)
        named = {name: str(path) for name, (path, _) in files.items()}
        label = arm_name(CONFIG, each, "closed")
        arms.append({"dataset": "d", "label": label, **named, "scores": [named["scores"]]})
    write_comparison(folder, told["compare"], tests)
    scored = write_trial(folder, told["judge.paper"])
    points = sweep_points(CONFIG, "s")
    for variant, seed in itertools.product(points, (1, 2)):
        log = results / f"runs/m/{variant}/d/seed{seed}/train_log.jsonl"
        write_rows(log, [{"step": n, "epoch": float(n), "eval_loss": 2 - n / (len(variant) + seed)} for n in (1, 2)])
    write_json(results / "study.json", CONFIG.model_dump(mode="json"))
    shutil.copytree(root / "report", folder / "report")
    for name, row in (
        (
            "train_log",
            [{"step": 1, "epoch": 1.0, "loss": 2.0, "tokens": 9}, {"step": 1, "epoch": 1.0, "eval_loss": 1.5}],
        ),
        ("telemetry", [{"step": 1, "seconds": 2.0, "memory_mb": 90.0}]),
    ):
        write_rows(results / f"runs/{TUNE}/{name}.jsonl", row)
    tables, figures, corpus = results / "tables", results / "figures", folder / "resources/corpora/c"

    trial = CONFIG.trials["t"].model_copy(update={"file": str(folder / "judged.json")})

    def table_files(name):
        of = {"table": "csv", "text": "md", "data": "json"}
        return [part for what, kind in of.items() for part in (f"--{what}", tables / f"{name}.{kind}")]

    def drawn(name):
        return ["--out", figures / f"{name}.svg", "--data", figures / f"{name}.csv"]

    scripts = {
        "measure_retrieval": [
            "--dataset", "d", "--splits", *(results / f"datasets/d/{split}.jsonl" for split in SPLITS),
            "--retrieved", results / "datasets/d/retrieved.jsonl", "--retrieval", CONFIG.retrieval.model_dump_json(),
            "--chunks", corpus / "chunks.jsonl", "--index", corpus / "index/chunks.faiss",
            "--encoder", encoder / "lock.json", "--out", results / "datasets/d/retrieval.json",
            "--table", results / "datasets/d/retrieval.md",
        ],
        "tabulate_trial": [
            "--name", "t", "--trial", trial.model_dump_json(), "--judge", "j", "--scores", scored,
            "--encoder", encoder / "lock.json", *table_files("trial.t"),
        ],
        "tabulate_scores": [
            "--arms", *map(json.dumps, arms),
            "--tests", *(results / f"datasets/d/{split}.jsonl" for split in splits if "test" in split),
            "--chunks", folder / "resources/corpora/c/chunks.jsonl", "--flips", 1000, "--wished", 0.05,
            "--trial", tables / "trial.t.json", "--rows", tables / "rows.jsonl", "--tunes", tables / "tunes.csv",
            "--out", tables / "scores.csv",
        ],
        "tabulate_studies": [
            "--scores", tables / "scores.csv", "--rows", tables / "rows.jsonl", "--of", '{"d": "d-naive"}',
            "--published", folder / "report/published.csv", "--tables", "judged", "texts", "outputs",
            "--out", tables / "studies",
        ],
        "tabulate_runs": [
            "--log", results / f"runs/{TUNE}/train_log.jsonl", "--telemetry", results / f"runs/{TUNE}/telemetry.jsonl",
            "--run", TUNE, "--out", tables / "runs.csv",
        ],
        "tabulate_comparisons": [
            "--comparisons", json.dumps({n: c.model_dump() for n, c in CONFIG.study.comparisons.items()}),
            "--choices", results / "comparisons/tuned.jsonl", "--trial", tables / "trial.t.json",
            "--out", tables / "pairwise.csv",
        ],
        "tabulate_sweep": [
            "--name", "s", "--sweep", CONFIG.sweeps["s"].model_dump_json(), "--variants", json.dumps(points),
            "--runs", results / "runs", *table_files("sweep.s"),
        ],
        "audit_leaks": [
            "--dataset", results / "datasets/d", "--limits", CONFIG.study.leaks.model_dump_json(), "--accept", "d",
            "--encoder", encoder / "lock.json", "--table", tables / "leaks.csv", "--text", tables / "leaks.md",
            "--pairs", tables / "leaks.jsonl",
        ],
        "plot_scores": ["--rows", tables / "rows.jsonl", *drawn("scores")],
        "plot_loss": ["--log", results / f"runs/{TUNE}/train_log.jsonl", "--run", TUNE, *drawn("loss")],
        "plot_memory": ["--telemetry", results / f"runs/{TUNE}/telemetry.jsonl", "--run", TUNE, *drawn("memory")],
        "plot_funnel": ["--funnel", results / "datasets/d/funnel.json", *drawn("funnel")],
        "plot_sweep": ["--table", tables / "sweep.s.json", *drawn("sweep.s")],
    }  # fmt: skip
    for name, arguments in scripts.items():
        done = run_script(name, *arguments)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def copy(study, tmp_path):
    shutil.copytree(study, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def broken(folder, config=CONFIG):
    """Return what verify says of results that do not hold."""
    from tuneproof.errors import InputError
    from tuneproof.verify import Verifier

    with pytest.raises(InputError) as found:
        Verifier(folder, config).verify()
    return str(found.value).replace(f"{folder}/", "")


def change(path, line, **values):
    """Change values of one row; a dotted key is one of an object inside."""
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    for key, value in values.items():
        inside = rows[line - 1]
        *outer, last = key.split("__")
        for name in outer:
            inside = inside[name]
        assert last in inside
        inside[last] = value
    write_rows(path, rows)


def test_a_study_that_nobody_touched_holds(study, run_script):
    done = run_script("verify", "--root", study)
    assert done.returncode == 0, done.stderr
    assert "small: " in done.stdout and "rows hold" in done.stdout
    assert "calls are in the store" in done.stdout


def test_each_file_counts_once_in_the_progress(study):
    from tuneproof.verify import Verifier

    seen = []
    verifier = Verifier(study, CONFIG, seen.append)
    verifier.verify()
    assert len(seen) == verifier.files()


SCORES = f"results/scores/{TUNE}/d.closed"
CASES = {
    # what is changed: file, line, keys -> what is said of it
    "a digit of a score": (f"{SCORES}.judge-j.jsonl", 2, {"score": 3.3}, "line 2, score: 3.3 is stored, 3.2 is"),
    "a judge's reply": (f"{SCORES}.judge-j.jsonl", 1, {"raw": "5"}, "line 1, raw: '5' is stored, '3' is derived"),
    "a probability": (f"{SCORES}.judge-j.jsonl", 1, {"distribution__5": 0.3}, "distribution.5: 0.3 is stored, 0.2 is"),
    "a judge's call": (f"{SCORES}.judge-j.jsonl", 3, {"call_id": "f" * 32}, "line 3, call_id: 'ffffffff"),
    "a measure": (f"{SCORES}.measures.jsonl", 1, {"values__rouge_2": 0.25}, "values.rouge_2: 0.25 is stored, 1.0"),
    "a count of facts": (f"{SCORES}.measures.jsonl", 1, {"facts_recalled": 0}, "facts_recalled: 0 is stored, 1 is"),
    "an answer": (f"results/answers/{TUNE}/d.closed.jsonl", 2, {"text": "Yes."}, "line 2, text: 'Yes.' is stored"),
    "an answer's run": (f"results/answers/{TUNE}/d.closed.jsonl", 1, {"run": "m/base"}, "run: 'm/base' is stored"),
    "an answer's context": (
        f"results/answers/{TUNE}/d.closed.jsonl", 1, {"context_ids": ["0"]}, "context_ids: ['0'] is stored, [] is"),
    "an answer's question": (f"results/answers/{TUNE}/d.closed.jsonl", 1, {"example_id": "0"}, "the test sets has no"),
    "a question": ("results/datasets/d/test_new_pages.jsonl", 1, {"question": "Eh?"}, "line 1, id: "),
    "a row's page": ("results/datasets/d/train.jsonl", 1, {"page_id": "0"}, "line 1, page_id: '0' is stored"),
    "what a row was made from": ("results/datasets/d/val.jsonl", 1, {"pair_id": "0"}, "line 1, pair_id: '0' is stored"),
    "a pair": ("results/datasets/d/pairs.jsonl", 4, {"answer": "It has 99."}, "line 4, id: "),
    "a pair's quote": ("results/datasets/d/pairs.jsonl", 4, {"quote": "CV3 has 99."}, "none: the chunk does not hold"),
    "a pair's writer": ("results/datasets/d/pairs.jsonl", 4, {"call_id": "0"}, "the store has no such row"),
    "a chunk": ("resources/corpora/c/chunks.jsonl", 3, {"text": "CV2 has 99."}, "none: the page does not hold"),
    "a page": ("resources/corpora/c/pages.jsonl", 5, {"text": "# CV4"}, "line 5, id: "),
    "a pairwise choice": ("results/comparisons/tuned.jsonl", 2, {"second": 0.6}, "line 2, second: 0.6 is stored, 0."),
    "a choice's call": ("results/comparisons/tuned.jsonl", 1, {"call_ids": []}, "line 1, call_ids: 0 is stored, 2 is"),
    "a score on trial": ("results/trials/t/j.jsonl", 3, {"score": 5.0}, "line 3, score: 5.0 is stored, 3.0 is"),
    "a joined row": ("results/tables/rows.jsonl", 2, {"scores__j": 1.0}, "line 2, scores.j: 1.0 is stored, 3.2 is"),
    "an arm's name": ("results/tables/rows.jsonl", 1, {"arm": "m"}, "line 1, arm: 'm' is stored, 'm base, closed"),
    "a score without a call": (f"{SCORES}.judge-j.jsonl", 3, {"call_id": ""}, "line 3, call_id: '' is stored"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("stored", "alike"),
    [
        ("cosine 0.792 (0.733 to 0.846)", True),
        ("cosine 0.793 (0.732 to 0.846)", True),
        ("cosine 0.794 (0.733 to 0.846)", False),
        ("sine 0.792 (0.733 to 0.846)", False),
        ("cosine  (0.733 to 0.846)", False),
    ],
)
def test_a_trials_text_may_differ_in_its_decimals_last_digit(stored, alike):
    from tuneproof.verify import nearly

    assert nearly(stored, "cosine 0.792 (0.733 to 0.846)") == alike


@pytest.mark.parametrize("case", CASES)
def test_a_changed_value_is_named_with_its_file_and_place(copy, case):
    file, line, values, said = CASES[case]
    change(copy / file, line, **values)
    found = broken(copy)
    assert found.startswith(f"{file} line {line}, ")
    assert said in found


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("scores.csv", "judge:j,", "judge:j,1", "scores.csv line 2, n: "),
        ("runs.csv", TUNE, "m/lora/d/seed2", f"runs.csv line 2, run: 'm/lora/d/seed2' is stored, '{TUNE}' is derived"),
        ("studies/judged.csv", "3.93", "3.39", "mean: '3.39' is stored, '3.93' is derived"),
        ("studies/judged.md", "3.93", "3.39", "studies/judged.md line "),
        ("studies/texts.tex", "ROUGE-2", "ROUGE-3", "studies/texts.tex line "),
        ("pairwise.csv", "tuned,", "tune,", "pairwise.csv line 2, comparison: 'tune' is stored, 'tuned' is derived"),
        ("trial.t.csv", "string_match", "string_watch", "'string_watch' is stored, 'string_match' is derived"),
        ("trial.t.md", "cosine", "sine", "trial.t.md line "),
        ("sweep.s.csv", "lora-rank8", "lora-rank9", "'lora-rank9' is stored, 'lora-rank8' is derived"),
        ("sweep.s.md", "lora-rank8", "lora-rank9", "sweep.s.md line "),
        ("leaks.csv", "test_new_pages", "val", "leaks.csv line "),
        ("leaks.md", "d", "e", "leaks.md line "),
    ],
)
def test_a_changed_cell_of_a_table_is_named(copy, file, old, new, said):
    path = copy / "results/tables" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    found = broken(copy)
    assert found.startswith(f"results/tables/{file} line ")
    assert said in found


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("datasets/d/retrieval.json", '"mean": 1.0', '"mean": 0.9999'),
        ("datasets/d/retrieval.json", '"source_found": ', '"source_found": 1'),
        ("datasets/d/retrieval.md", "| bm25 |", "| bm26 |"),
        ("figures/scores.csv", ",0.3,", ",0.4,"),
        ("figures/loss.csv", "2.0", "2.1"),
        ("figures/memory.csv", "0.09", "0.08"),
        ("figures/funnel.csv", "10", "11"),
        ("figures/sweep.s.csv", "lora-rank8", "lora-rank9"),
    ],
)
def test_a_changed_figure_of_the_report_is_named(copy, file, old, new):
    path = copy / "results" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert broken(copy).startswith(f"results/{file}")


def test_what_a_reranker_found_is_taken_as_it_is_stored_and_nothing_else(copy):
    from tuneproof.verify import Verifier

    plain = CONFIG.model_dump(mode="json")
    plain["retrieval"]["reranker"] = "m"
    config, path = load(plain), copy / "results/datasets/d/retrieval.json"
    measured = read_json(path)
    measured["retriever"], dense = "dense, reranked", {}
    rows = []
    for row in measured["retrievers"]:
        dense = row if row["retriever"] == "dense" else dense
        rows += [row, {**dense, "retriever": "dense, reranked"}] if row["retriever"] == "fused" else [row]
    table = retrieval.as_markdown("d", TypeAdapter(list[retrieval.Measured]).validate_python(rows), measured["chunks"])
    path.with_suffix(".md").write_text(table)
    write_json(path, {**measured, "retrievers": rows})
    Verifier(copy, config).verify()
    write_json(path, {**measured, "retrievers": rows[1:]})
    assert broken(copy, config).startswith("results/datasets/d/retrieval.json, retrievers")


@pytest.mark.parametrize("file", [f"{SCORES}.judge-j.jsonl", f"{SCORES}.measures.jsonl", "results/tables/rows.jsonl"])
def test_a_row_that_is_gone_is_missed(copy, file):
    path = copy / file
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert file in (found := broken(copy))
    assert "expected one for each" in found or "are derived" in found


def test_a_line_that_is_too_many_is_named(copy):
    path = copy / "results/tables/leaks.md"
    path.write_text(path.read_text() + "And all is well.\n")
    assert "text: 'And all is well.' is stored, None is derived" in broken(copy)


def test_each_row_is_held_against_its_own_reply_where_two_jobs_have_asked_the_same(copy):
    """Side by side, both are paid for and both are stored; their low bits differ."""
    from tuneproof.verify import Verifier

    folder = copy / "store/llm/judge"
    lines = [line for segment in sorted(folder.glob("*.jsonl")) for line in segment.read_text().splitlines()]
    judged = next(line for line in lines if '"1": 0.1' in line)
    (folder / "00.jsonl").write_text(judged.replace('"1": 0.1', '"1": 0.1000001') + "\n")
    Verifier(copy, CONFIG).verify()


def test_scores_that_have_changed_places_are_named(copy):
    """Reply, score, call and id fit together: but the call asks about another answer."""
    path = copy / f"{SCORES}.judge-j.jsonl"
    one, other, *rest = read_rows(path, Score)
    swapped = [
        replace(to, id=content_id(to.answer_id, "j", of.call_id), call_id=of.call_id, raw=of.raw, score=of.score)
        for to, of in ((one, other), (other, one))
    ]
    write_rows(path, [*swapped, *rest])
    found = broken(copy)
    assert found.startswith(f"{SCORES}.judge-j.jsonl line 1, call_id: {other.call_id!r} is stored, {one.call_id!r} is")


def test_an_answer_of_another_run_is_named(copy):
    """The same question, asked of the tuned model and of the base: the request is one, and who answers is not."""
    path = copy / "results/answers/m/base/d.closed.jsonl"
    mine, *rest = read_rows(path, Answer)
    theirs = read_rows(copy / f"results/answers/{TUNE}/d.closed.jsonl", Answer)[0]
    identity = content_id(mine.example_id, "m/base", "closed", theirs.call_id)
    write_rows(path, [replace(mine, id=identity, call_id=theirs.call_id, text=theirs.text), *rest])
    found = broken(copy)
    assert found.startswith(f"results/answers/m/base/d.closed.jsonl line 1, call_id: {theirs.call_id!r} is stored")


def test_an_answer_without_a_call_is_named(copy):
    path = copy / f"results/answers/{TUNE}/d.closed.jsonl"
    one, *rest = read_rows(path, Answer)
    made_up = replace(one, id=content_id(one.example_id, TUNE, "closed", ""), call_id="", text="It has 9 megawatts.")
    write_rows(path, [made_up, *rest])
    assert f"{TUNE}/d.closed.jsonl line 1, call_id: '' is stored" in broken(copy)


def test_choices_that_are_turned_are_named(copy):
    path = copy / "results/comparisons/tuned.jsonl"
    one, *rest = read_rows(path, pairwise.Choice)
    turned = replace(one, call_ids=one.call_ids[::-1], first=1 - one.second, second=1 - one.first)
    write_rows(path, [turned, *rest])
    assert broken(copy).startswith(f"results/comparisons/tuned.jsonl line 1, call_id: {turned.call_ids[0]!r} is stored")


def test_a_pair_that_its_call_did_not_write_is_named(copy):
    path = copy / "results/datasets/d/pairs.jsonl"
    pairs = read_rows(path, Pair)
    write_rows(path, [*pairs[:3], replace(pairs[3], call_id=pairs[4].call_id), *pairs[4:]])
    assert f"pairs.jsonl line 4, call_id: {pairs[4].call_id!r} is stored, {pairs[3].call_id!r} is" in broken(copy)
    answer = "It has 99 megawatts."
    other = replace(pairs[3], id=content_id(pairs[3].chunk_id, pairs[3].question, answer), answer=answer)
    write_rows(path, [*pairs[:3], other, *pairs[4:]])
    assert f"pairs.jsonl line 4, answer: {answer!r} is stored, 'none: the reply" in broken(copy)


def test_a_mended_pair_wants_its_record(copy):
    (copy / "results/datasets/d/reviewed.jsonl").unlink()
    assert "pairs.jsonl line 2, answer: 'It has 11 megawatts in all.' is stored, 'none: the reply" in broken(copy)


def test_a_call_whose_request_was_edited_is_none(copy):
    segment = next(s for s in (copy / "store/llm/tuned").glob("*.jsonl") if "How many" in s.read_text())
    segment.write_text(segment.read_text().replace("How many", "How few"))
    assert "the store has no such row" in broken(copy)


def test_an_encoders_low_bits_are_let_pass_where_it_runs_and_nowhere_else(copy, encoder):
    plain = CONFIG.model_dump(mode="json")
    plain["metrics"]["bertscore"] = {"encoder": "m", "layer": 5}
    config, results = load(plain), copy / "results"
    matched, measured = BertScore(encoder / "lock.json", 5), {}
    tests = [e for split in SPLITS[2:] for e in read_rows(results / f"datasets/d/{split}.jsonl", Example)]
    trained, facts = read_rows(results / "datasets/d/train.jsonl", Example), read_facts(copy / "facts.jsonl")
    for run in expand_runs(config):
        answers = read_rows(results / f"answers/{run.id}/d.closed.jsonl", Answer)
        rows = measure(answers, tests, trained, facts, bertscore=matched)
        for row in rows:
            row.values["bertscore"] += 2e-5  # as another machine might have it
        write_rows(results / f"scores/{run.id}/d.closed.measures.jsonl", rows)
        measured |= {row.answer_id: row for row in rows}
    path = results / "tables/rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [{**row, **measured[row["answer_id"]].values, "encoder": matched.settings} for row in rows]
    write_rows(path, rows)
    assert "results/tables/scores.csv: " in broken(copy, config), "rows hold; the table is without BERTScore"
    change(path, 1, bertscore=rows[0]["bertscore"] + 1e-5)
    assert broken(copy, config).startswith("results/tables/rows.jsonl line 1, bertscore: ")


def test_an_answer_that_is_gone_is_missed(copy):
    path = copy / f"results/answers/{TUNE}/d.closed.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert "test examples: expected one for each" in broken(copy)


def test_without_its_store_a_score_is_still_held_against_its_distribution(copy, run_script):
    shutil.rmtree(copy / "store")
    done = run_script("verify", "--root", copy)
    assert done.returncode == 0, done.stderr
    assert "the store is not here" in done.stdout
    change(copy / f"{SCORES}.judge-j.jsonl", 2, score=4.2)
    done = run_script("verify", "--root", copy)
    assert done.returncode == 1
    assert f"{SCORES}.judge-j.jsonl line 2, score: 4.2 is stored, 3.2 is derived" in done.stderr
    assert "Traceback" not in done.stderr


def dialogue(n):
    return Dialogue(f"t{n}", (Turn("user", f"my parcel {n} is late"),), (f"Parcel {n} is late.", "Late."), 0, "x")


def write_kinds(folder):
    """Write a data set of every other kind beside `d`, by the functions that make them; return their configuration."""
    data = folder / "results/datasets"
    parent = {split: read_rows(data / f"d/{split}.jsonl", Example) for split in SPLITS}
    chunks = {c.id: c for c in read_rows(folder / "resources/corpora/c/chunks.jsonl", Chunk)}
    sections = {
        "again": {"kind": "reanswered", "of": "d", "llm": "w"},
        "typed": {"kind": "typed", "of": "d", "type": "factual"},
        "goods": {"kind": "recommendation", "llm": "w", "encoder": "m", "catalogue": "x", "options": 3, "rows": 3,
                  "validation": 1, "tests": 1},
        "pitch": {"kind": "pitch", "corpus": "c", "llm": "w", "rows": 3, "validation": 1, "tests": 1},
        "talks": {"kind": "dialogues", "path": "x", "encoder": "m"},
    }  # fmt: skip
    plain = CONFIG.model_dump(mode="json")
    plain["datasets"] |= sections
    plain["datasets"]["d"]["types"] = {"llm": "w", "encoder": "m"}
    plain["study"] |= {"datasets": list(sections), "published": {}, "sweeps": [], "trials": [], "comparisons": {}}
    config = load(plain)
    known = read_rows(data / "d/pairs.jsonl", Pair)
    answers = [f"Say {pair.answer}" for pair in known]
    again = [
        Reanswer(p.id, p.question, answer, [p.chunk_id], ask(folder, "writer", say(answer), answer).call_id, None)
        for p, answer in zip(known, answers, strict=True)
    ]
    write_rows(data / "again/answers.jsonl", again)
    three = list(zip(list(chunks.values())[:3], ("train", "val", "test_new_pages"), strict=True))
    products = [Product(c.page_id, f"Product {n}", "g", c.text, c.id, c.url, s) for n, (c, s) in enumerate(three)]
    needs = [Requirement(content_id(p.page_id, "Power?"), p.page_id, "Power?", known[0].call_id) for p in products]
    write_rows(data / "goods/requirements.jsonl", needs)
    ranked = [Ranked(r, p, [o for o in products if o != p], 1) for r, p in zip(needs, products, strict=True)]
    texts = [
        Written(content_id(c.id, "Product", "Buy it."), c.id, s, "Product", "Buy it.", known[0].call_id)
        for c, s in three
    ]
    write_rows(data / "pitch/written.jsonl", texts)
    made = {
        "again": {split: with_answers(rows, again) for split, rows in parent.items()},
        "typed": parent,
        "goods": recommend.make_rows(ranked, "{requirement}\n\n{products}", config.datasets["goods"])[0],
        "pitch": write.make_rows(texts, chunks, "{material}", config.datasets["pitch"]),
        "talks": dialogues.make_rows({s: [dialogue(n)] for n, s in enumerate(SPLITS)}, None, True)[0],
    }
    for name, splits in made.items():
        for split, rows in splits.items():
            write_rows(data / f"{name}/{split}.jsonl", rows)
    return config


def test_rows_of_every_kind_are_walked_back(copy):
    from tuneproof.verify import Verifier

    config = write_kinds(copy)
    tests = Verifier(copy, config).sources()
    assert {name: bool(rows) for name, rows in tests.items()} == dict.fromkeys(["d", *config.study.datasets], True)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("again/train.jsonl", "answer", "Say nothing."),
        ("again/answers.jsonl", "pair_id", "0"),
        ("again/answers.jsonl", "answer", "Say nothing."),
        ("typed/test_new_pages.jsonl", "answer", "It has 1 megawatt."),
        ("goods/test_new_pages.jsonl", "question", "Power!"),
        ("goods/requirements.jsonl", "text", "Water?"),
        ("pitch/val.jsonl", "answer", "Do not."),
        ("pitch/written.jsonl", "material", "Products"),
        ("talks/test_trained_pages.jsonl", "question", "user: it is early"),
        ("talks/train.jsonl", "pair_id", "0"),
    ],
)
def test_a_changed_row_of_any_kind_is_named(copy, file, key, value):
    from tuneproof.errors import InputError
    from tuneproof.verify import Verifier

    config = write_kinds(copy)
    change(copy / "results/datasets" / file, 1, **{key: value})
    with pytest.raises(InputError) as found:
        Verifier(copy, config).sources()
    assert f"results/datasets/{file} line 1, " in str(found.value)
