"""What was changed by one digit, or has lost its source, is named; a study that nobody touched holds."""

import itertools
import json
import shutil

import pytest

from tuneproof.answers.ask import answers_from
from tuneproof.dialogues import rows as dialogues
from tuneproof.dialogues.layouts import Dialogue, Turn
from tuneproof.instructions import recommend, write
from tuneproof.instructions.products import Product
from tuneproof.instructions.recommend import Ranked
from tuneproof.instructions.requirements import Requirement
from tuneproof.instructions.write import Written
from tuneproof.llm.calls import Reply, Request
from tuneproof.llm.client import Answered
from tuneproof.llm.store import Store
from tuneproof.pairs.reanswer import with_answers
from tuneproof.pairs.split import make_examples
from tuneproof.records import (
    Answer,
    Chunk,
    Example,
    Page,
    Pair,
    Phrasing,
    Reanswer,
    content_id,
    read_rows,
    write_json,
    write_rows,
)
from tuneproof.scores import pairwise
from tuneproof.scores.facts import read_facts
from tuneproof.scores.judge import scores_from
from tuneproof.scores.measure import measure
from tuneproof.study import SPLITS, load, sweep_points
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


def ask(store, text, tokens=3, distribution=None):
    """Put a reply to a call into the store, as an engine would; return it as answered."""
    request = Request([{"role": "user", "content": f"{text} {len(store)}"}], 9)
    key, reply = request.key("engine"), Reply(text, 5, tokens, "stop", distribution or {})
    store.put([(key, request, reply)])
    return Answered(key, reply)


def write_comparison(results, store, tests):
    """A judge that takes the tune's answer in the first place, and the second answer half of the time."""
    arms = [read_rows(results / f"answers/{arm}.jsonl", Answer) for arm in CONFIG.study.comparisons["tuned"].arms]
    paired = pairwise.pairs(*arms)
    leans = [lean for n in range(len(paired)) for lean in (0.9, 0.3 + 0.4 * (n % 2))]
    replies = [ask(store, "A", distribution={"A": lean, "B": 1 - lean}) for lean in leans]
    by_id = {e.id: e for e in tests}
    write_rows(results / "comparisons/tuned.jsonl", pairwise.choices_from(paired, by_id, replies))


def write_trial(folder, store):
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
    answers, _ = evouna.as_asked(evouna.draw(folder / "judged.json", spec.questions, spec.seed))
    replies = [ask(store, "3", distribution=dict.fromkeys("12345", 0.2)) for _ in answers]
    path = folder / "results/trials/t/j.jsonl"
    write_rows(path, scores_from(answers, replies, "j"))
    return path


@pytest.fixture(scope="module")
def study(root, run_script, encoder, tmp_path_factory):
    """A whole study of ten pages by the functions and scripts that make a real one; language models are left out."""
    folder = tmp_path_factory.mktemp("study")
    results, store = folder / "results", Store(folder / "store/llm", "engine")
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
    pairs, phrasings = [], []
    for n, chunk in enumerate(chunks):
        question, answer = f"What power has CV{n}?", f"It has {10 + n} megawatts."
        key = content_id(chunk.id, question, answer)
        pairs.append(Pair(key, chunk.id, chunk.page_id, question, answer, chunk.text, ask(store, "{}").call_id))
        phrasings.append(Phrasing(key, [f"How many megawatts has CV{n}?"], ask(store, "{}").call_id))
    splits = make_examples(pairs, phrasings, {c.id: c for c in chunks}, CONFIG.datasets["d"].splits)
    facts = [
        {"id": f"f{n}", "path": f"/{n}", "subject": f"CV{n}", "attribute": "power", "value": f"{10 + n} megawatts",
         "aliases": []} for n in range(10)
    ]  # fmt: skip
    write_rows(folder / "facts.jsonl", facts)
    write_rows(folder / "resources/corpora/c/pages.jsonl", pages)
    write_rows(folder / "resources/corpora/c/chunks.jsonl", chunks)
    write_rows(results / "datasets/d/pairs.jsonl", pairs)
    for split, rows in splits.items():
        write_rows(results / f"datasets/d/{split}.jsonl", rows)
    tests = [*splits["test_trained_pages"], *splits["test_new_pages"]]
    arms = []
    for run, said in (("m/base", "I do not know."), (TUNE, "")):
        answered = [ask(store, said or e.answer) for e in tests]
        answers = answers_from(tests, answered, run, "closed", {})
        lean = {"1": 0.1, "2": 0.2, "3": 0.3, "4": 0.2, "5": 0.2}
        judged = scores_from(answers, [ask(store, "3", distribution=lean) for _ in answers], "j")
        measures = measure(answers, tests, splits["train"], read_facts(folder / "facts.jsonl"))
        files = {
            "answers": (results / f"answers/{run}/d.closed.jsonl", answers),
            "measures": (results / f"scores/{run}/d.closed.measures.jsonl", measures),
            "scores": (results / f"scores/{run}/d.closed.judge-j.jsonl", judged),
        }
        for path, rows in files.values():
            write_rows(path, rows)
        named = {name: str(path) for name, (path, _) in files.items()}
        arms.append({"dataset": "d", "label": f"arm {run}", **named, "scores": [named["scores"]]})
    write_comparison(results, store, tests)
    scored = write_trial(folder, store)
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
    tables = results / "tables"

    trial = CONFIG.trials["t"].model_copy(update={"file": str(folder / "judged.json")})

    def table_files(name):
        of = {"table": "csv", "text": "md", "data": "json"}
        return [part for what, kind in of.items() for part in (f"--{what}", tables / f"{name}.{kind}")]

    scripts = {
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
    }  # fmt: skip
    for name, arguments in scripts.items():
        done = run_script(name, *arguments)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def copy(study, tmp_path):
    shutil.copytree(study, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def broken(folder):
    """Return what verify says of results that do not hold."""
    from tuneproof.errors import InputError
    from tuneproof.verify import Verifier

    with pytest.raises(InputError) as found:
        Verifier(folder, CONFIG).verify()
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
    "a pair's writer": ("results/datasets/d/pairs.jsonl", 4, {"call_id": "0"}, "the store has no such row"),
    "a chunk": ("resources/corpora/c/chunks.jsonl", 3, {"text": "CV2 has 99."}, "none: the page does not hold"),
    "a page": ("resources/corpora/c/pages.jsonl", 5, {"text": "# CV4"}, "line 5, id: "),
    "a pairwise choice": ("results/comparisons/tuned.jsonl", 2, {"second": 0.6}, "line 2, second: 0.6 is stored, 0."),
    "a choice's call": ("results/comparisons/tuned.jsonl", 1, {"call_ids": []}, "line 1, call_ids: 0 is stored, 2 is"),
    "a score on trial": ("results/trials/t/j.jsonl", 3, {"score": 5.0}, "line 3, score: 5.0 is stored, 3.0 is"),
    "a joined row": ("results/tables/rows.jsonl", 2, {"scores__j": 1.0}, "line 2, scores.j: 1.0 is stored, 3.2 is"),
    "an arm's name": ("results/tables/rows.jsonl", 2, {"arm": "other"}, "line 2, arm: 'other' is stored, 'arm m/base'"),
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

    [segment] = (copy / "store/llm").glob("*/*.jsonl")
    judged = next(line for line in segment.read_text().splitlines() if '"1": 0.1' in line)
    (segment.parent / "00.jsonl").write_text(judged.replace('"1": 0.1', '"1": 0.1000001') + "\n")
    Verifier(copy, CONFIG).verify()


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
    again = [Reanswer(p.id, p.question, f"Say {p.answer}", [p.chunk_id], p.call_id, None) for p in known]
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
