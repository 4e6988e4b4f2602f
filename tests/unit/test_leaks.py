"""The audit finds what a test set shares with a training set, and what is alike but for a name it leaves alone."""

import csv
import json
from dataclasses import replace

import pytest

from tuneproof.pairs.leaks import Rows, audit, markdown, too_many
from tuneproof.records import Example, iter_json_lines, write_rows
from tuneproof.study import Leaks

TRAINED = "How is a cross connect ordered in a Haldrune data centre?", "An order for it is placed in the portal by you."


def row(question: str, answer: str, split: str = "train") -> Example:
    return Example(question + split, "p", "c", "g", "u", "group", split, question, answer, [])


def one(question: str, answer: str, split: str = "test_new_pages", train=TRAINED) -> Rows:
    tests = {"test_trained_pages": [], "test_new_pages": []}
    return Rows("x", [row(*train)], {**tests, split: [row(question, answer, split)]})


def no_vectors(texts):
    import numpy as np

    return np.eye(len(texts), dtype="float32")


OTHER = "Nothing of this stands anywhere else in here."
CASES = [
    (
        "how is a cross connect ordered in a **Haldrune** data centre",
        OTHER,
        {"question exact", "question minhash", "question embedding"},
    ),
    ("So how is a cross connect ordered in a Haldrune data centre?", OTHER, {"question minhash"}),
    ("How is a cross connect ordered in a Vexley data centre?", OTHER, set()),
    ("What now?", TRAINED[1], {"answer exact", "answer minhash", "answer embedding"}),
    ("What now?", "order for it is placed in the portal", {"answer contained"}),
    ("What now?", "placed in the portal", set()),  # too short to be no accident
    ("What now?", OTHER, set()),
]


@pytest.mark.parametrize(("question", "answer", "measures"), CASES)
def test_each_measure_finds_what_it_is_for(question, answer, measures):
    cells, leaks = audit([one(question, answer)], Leaks(), no_vectors)
    assert {leak.measure for leak in leaks} == measures
    assert [(cell.split, cell.leaked) for cell in cells] == [
        ("test_trained_pages", 0),
        ("test_new_pages", int(bool(measures))),
    ]


def test_embedding_finds_other_words_for_the_same_thing():
    def all_alike(texts):
        import numpy as np

        return np.ones((len(texts), 1), dtype="float32")

    _, leaks = audit([one("In what way does one order a cross connect at Haldrune?", OTHER)], Leaks(), all_alike)
    assert [leak.measure for leak in leaks] == ["question embedding", "answer embedding"]


SUBJECT_FIRST = [
    ("Haldrune lets one order a cross connect how?", {"question embedding"}),
    ("Vexley lets one order a cross connect how?", set()),
    ("Haldrune lets one order a Vexley cross connect how?", set()),
    ("Haldrune lets one order a cross connect in CV1 how?", set()),
]


@pytest.mark.parametrize(("question", "measures"), SUBJECT_FIRST)
def test_a_subject_in_first_place_is_still_the_subject(question, measures):
    def all_alike(texts):
        import numpy as np

        return np.ones((len(texts), 1), dtype="float32")

    _, leaks = audit([one(question, "Too short.")], Leaks(), all_alike)
    assert {leak.measure for leak in leaks} == measures


def test_trained_pages_share_facts_on_purpose_but_no_question():
    answer_only, _ = audit([one("Other words?", TRAINED[1], "test_trained_pages")], Leaks(), no_vectors)
    assert answer_only[0].found["answer exact"] == 1 and answer_only[0].leaked == 0
    question, _ = audit([one(*TRAINED, "test_trained_pages")], Leaks(), no_vectors)
    assert question[0].leaked == 1


def test_sets_are_compared_with_one_another_and_not_only_with_themselves():
    clean = Rows("clean", [row("Who?", "Nobody.")], one(*TRAINED).tests)
    dirty = Rows("dirty", [row(*TRAINED)], one("Where?", OTHER).tests)
    cells, _ = audit([clean, dirty], Leaks(), no_vectors)
    assert {(c.train, c.test) for c in cells if c.leaked} == {("dirty", "clean")}


def test_a_page_that_another_set_trains_on_is_counted_and_is_no_leak():
    about = replace(row("Where?", OTHER, "test_new_pages"), page_id="shared")
    tested = Rows("tested", [replace(row("Who?", "Nobody."), page_id="own")], {**one(*TRAINED).tests})
    tested.tests["test_new_pages"][:] = [about, replace(about, id="2", page_id="new")]
    trained = Rows("trained", [replace(row(*TRAINED), page_id="shared")], one("Where?", OTHER).tests)
    cells, leaks = audit([tested, trained], Leaks(), no_vectors)
    pages = {(c.train, c.page, c.leaked) for c in cells if (c.test, c.split) == ("tested", "test_new_pages")}
    assert pages == {("tested", 0, 0), ("trained", 1, 0)}
    assert "| trained | tested | test_new_pages | 2 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 1 | 0 | 0.0% |" in markdown(
        cells, leaks, Leaks(), "encoder"
    )


def test_too_much_is_named_unless_it_is_accepted():
    cells, _ = audit([one(*TRAINED)], Leaks(), no_vectors)
    assert too_many(cells, Leaks(), []) == ["1 of 1 rows of x test_new_pages are in the training set of x"]
    assert too_many(cells, Leaks(), ["x"]) == too_many(cells, Leaks(max_share=1), []) == []


def test_the_script_writes_table_and_pairs_and_fails_with_a_sentence(tmp_path, encoder, run_script):
    folder = tmp_path / "x"
    rows = one(*TRAINED)
    for split, examples in {"train": rows.train, **rows.tests}.items():
        write_rows(folder / f"{split}.jsonl", examples)
    arguments = [
        *("--dataset", folder, "--limits", json.dumps({"max_share": 0.1}), "--encoder", encoder / "lock.json"),
        *("--table", tmp_path / "t.csv", "--text", tmp_path / "t.md", "--pairs", tmp_path / "t.jsonl"),
    ]
    failed = run_script("audit_leaks", *arguments)
    assert failed.returncode == 1
    assert "1 of 1 rows of x test_new_pages are in the training set of x: more than study.leaks" in failed.stderr
    assert f"- *question exact, 1.00*: x test_new_pages `{TRAINED[0]}`" in failed.stderr, "the outputs will be deleted"
    assert run_script("audit_leaks", *arguments, "--accept", "x").returncode == 0
    new_pages = list(csv.DictReader((tmp_path / "t.csv").open()))[1]
    assert new_pages["page"] == "1"
    assert (new_pages["question_embedding"], new_pages["leaked"], new_pages["share"]) == ("1", "1", "1.0")
    assert len(list(iter_json_lines(tmp_path / "t.jsonl"))) == 6  # all measures but `answer contained`
