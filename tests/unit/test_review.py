"""What reviewers decide is followed, what they got wrong is named, and how far two agree is computed."""

import csv
import json
import shutil
import subprocess
from collections import Counter
from html import unescape

import numpy as np
import pytest

from tuneproof.errors import InputError
from tuneproof.pairs.review import cohens_kappa, follow, page, read_decisions, summary, table
from tuneproof.records import Chunk, Pair, content_id, iter_json_lines, read_rows, write_rows

CHUNK = Chunk("c", "g", "http://x.test/a", "metros", ["Sites"], "The power of CV1 is **17 MW**. It opened in 2019.", 20)
PAIRS = [
    Pair(f"p{n}", "c", "g", f"What is fact {n} of CV1?", f"Fact {n}.", "The power of CV1 is 17 MW.", "k")
    for n in range(4)
]
KNOWN = {pair.id: pair for pair in PAIRS}


def decisions(tmp_path, **files):
    """Files of reviewers, each a list of (pair, decision, changes), read again."""
    found = []
    for reviewer, rows in files.items():
        path = tmp_path / f"{reviewer}.jsonl"
        write_rows(path, [{"pair_id": i, "decision": d, **(more[0] if more else {})} for i, d, *more in rows])
        found += read_decisions(path)
    return found


def test_rejected_pairs_are_dropped_and_mended_ones_get_a_new_id(tmp_path):
    said = decisions(tmp_path, ann=[("p0", "accept"), ("p1", "reject"), ("p2", "mend", {"answer": "Another fact."})])
    kept, dropped, record = follow(PAIRS, KNOWN, said)
    assert [(p.id, reason) for p, reason in dropped] == [("p1", "rejected by review")]
    mended = kept[1]
    assert mended.id == content_id("c", PAIRS[2].question, "Another fact.")
    assert (mended.answer, mended.question, mended.chunk_id, mended.quote) == (
        *("Another fact.", PAIRS[2].question),
        *(PAIRS[2].chunk_id, PAIRS[2].quote),
    )
    assert [p.id for p in kept] == ["p0", mended.id, "p3"]
    assert [(row["pair_id"], row["decision"], row["new_id"]) for row in record] == [
        *(("p0", "accept", "p0"), ("p1", "reject", "p1"), ("p2", "mend", mended.id))
    ]


def test_the_stricter_of_two_decisions_counts_and_is_listed(tmp_path):
    said = decisions(
        tmp_path,
        ann=[("p0", "accept"), ("p1", "mend", {"answer": "By Ann."}), ("p2", "accept")],
        ben=[("p0", "reject"), ("p1", "mend", {"answer": "By Ben."}), ("p2", "accept")],
    )
    kept, dropped, _ = follow(PAIRS, KNOWN, said)
    assert [p.id for p, _ in dropped] == ["p0"]
    assert kept[0].answer == "By Ann."
    text = "\n".join(summary(said))
    assert "ann: 2 accept, 1 mend, 0 reject" in text
    assert "ann and ben: 3 pairs by both, agreement 67%, Cohen's kappa 0.50" in text
    assert "p0: ben reject, ann accept; reject by ben counts, the stricter" in text
    assert "p2" not in text


def test_a_mended_question_must_not_be_asked_already(tmp_path):
    said = decisions(tmp_path, ann=[("p0", "mend", {"question": "what is fact 1 of CV1"})])
    kept, dropped, _ = follow(PAIRS, KNOWN, said)
    assert [(p.id, reason) for p, reason in dropped] == [("p0", "duplicate question")]
    assert len(kept) == 3


def test_a_rejected_pair_asks_nothing_so_another_may_take_up_its_question(tmp_path):
    said = decisions(tmp_path, ann=[("p0", "mend", {"question": PAIRS[1].question}), ("p1", "reject")])
    kept, dropped, _ = follow(PAIRS, KNOWN, said)
    assert [p.question for p in kept] == [PAIRS[n].question for n in (1, 2, 3)]
    assert [(p.id, reason) for p, reason in dropped] == [("p1", "rejected by review")]


def test_a_decision_about_a_pair_that_screening_dropped_changes_nothing(tmp_path):
    assert follow(PAIRS[1:], KNOWN, decisions(tmp_path, ann=[("p0", "reject")])) == (PAIRS[1:], [], [])


WRONG = [
    ({"pair_id": "nobody", "decision": "accept"}, "ann.jsonl line 2: pair_id 'nobody' is none of the 4 pairs"),
    ({"pair_id": "p0", "decision": "maybe"}, "ann.jsonl line 2: decision 'maybe', expected accept, reject or mend"),
    ({"pair_id": "p0", "decision": "mend"}, "ann.jsonl line 2: mend without a change"),
    (
        {"pair_id": "p0", "decision": "accept", "answer": "B"},
        "ann.jsonl line 2: accept with another question or answer",
    ),
    ({"pair_id": "p3", "decision": "reject"}, "ann.jsonl line 2: pair_id 'p3' is decided twice"),
    ({"pair_id": "p0", "decision": "accept", "reviewer": "ben"}, "ann.jsonl line 2: reviewer 'ben', expected 'ann'"),
]


@pytest.mark.parametrize(("row", "message"), WRONG)
def test_a_wrong_row_is_named(tmp_path, row, message):
    write_rows(tmp_path / "ann.jsonl", [{"pair_id": "p3", "decision": "accept"}, row])
    with pytest.raises(InputError, match=message):
        follow(PAIRS, KNOWN, read_decisions(tmp_path / "ann.jsonl"))


def test_the_table_can_be_filled_in_a_spreadsheet_and_comes_back(tmp_path):
    pairs = [*PAIRS[:2], Pair("p4", "c", "g", "=HYPERLINK(1)?", "+49", "q", "k")]
    pairs += [Pair(f"{n}", "c", "g", f"{text}?", text, "q", "k") for n, text in enumerate(("'-5", "''", "-5", "'a"))]
    text = table(pairs, {"c": CHUNK})
    assert "'=HYPERLINK(1)?" in text, "a cell is no formula"
    rows = list(csv.DictReader(text.splitlines()))
    assert not [row["pair_id"] for row in rows if row["pair_id"][0].isdigit()], "a spreadsheet takes it for a number"
    for row in rows[1:]:
        row["decision"] = "accept"
    rows[0]["decision"] = "reject"
    rows[1]["pair_id"] = "p1"  # as tables were once written
    with (tmp_path / "ann.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    kept, dropped, _ = follow(pairs, {p.id: p for p in pairs}, read_decisions(tmp_path / "ann.csv"))
    assert [p.id for p, _ in dropped] == ["p0"] and kept == pairs[1:]


def test_kappa_is_that_of_the_textbook():
    # Fleiss, Levin, Paik, Statistical Methods for Rates and Proportions, 3rd ed., table 18.1: kappa 0.68
    counts = {("p", "p"): 75, ("p", "n"): 1, ("p", "o"): 4, ("n", "p"): 5, ("n", "n"): 4, ("n", "o"): 1, ("o", "o"): 10}
    both = [cell for cell, count in counts.items() for _ in range(count)]
    kappa, low, high = cohens_kappa(both)
    assert kappa == pytest.approx(0.676, abs=5e-4)
    random = np.random.default_rng(1)
    resampled = [cohens_kappa([both[i] for i in random.integers(0, 100, 100)])[0] for _ in range(2000)]
    assert (high - low) / 2 == pytest.approx(1.96 * np.std(resampled), rel=0.1), "the bootstrap says the same"


def test_kappa_is_not_defined_where_both_say_one_thing():
    assert cohens_kappa([("accept", "accept")] * 5) == (None, None, None)


def test_the_page_holds_the_pairs_as_data_and_nothing_of_them_is_html(root):
    hostile = Pair("p9", "c", "g", "</script><script>alert(1)</script>?", "A", "q", "k")
    html = page((root / "report" / "review.html.j2").read_text(), "x", [hostile], {"c": CHUNK})
    assert Counter(part for part in ("<script", "</script", "http:") for _ in html.split(part)[1:]) == {
        **{"<script": 2, "</script": 2, "http:": 1}
    }, "its two scripts, and one address as data"
    held = html.split('id="data">')[1].split("</script>")[0]
    assert json.loads(held)["pairs"][0]["question"] == hostile.question


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not here")
def test_keys_decide_and_the_browser_keeps_it(root, tmp_path):
    html = page((root / "report" / "review.html.j2").read_text(), "x", PAIRS, {"c": CHUNK})
    press = "for (const key of 'arnp') document.dispatchEvent(new KeyboardEvent('keydown', { key }));"
    edit = "$('edit').click(); $('new-answer').value = 'Mended.'; $('save').click();"
    last = "document.body.innerHTML = ''; document.body.textContent = JSON.stringify([rows(), localStorage.length]);"
    rows, kept = opened(tmp_path, html, press + edit + last)
    assert [(r["pair_id"], r["decision"], r["answer"]) for r in rows] == [
        *(("p0", "accept", ""), ("p1", "reject", ""), ("p2", "mend", "Mended.")),
    ]
    assert kept == 1


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not here")
def test_a_review_goes_on_in_another_browser_from_the_reviewers_file(root, tmp_path):
    gone = {"question": "What of a pair that is listed no longer?"}
    said = decisions(
        tmp_path,
        ann=[("p0", "reject", {"note": "no"}), ("p1", "mend", {"answer": "'=2"}), ("p9", "mend", gone)],
        ben=[("p2", "accept")],
    )
    html = page((root / "report" / "review.html.j2").read_text(), "x", PAIRS, {"c": CHUNK}, said)
    name = (
        "$('reviewer').value = 'ann'; for (const e of ['input', 'change']) $('reviewer').dispatchEvent(new Event(e));"
    )
    act = "$('undecided').click(); $('accept').click(); $('previous').click(); $('previous').click();"
    csv_text = "let saved = ''; offer = text => { saved = text; }; $('csv').click();"
    last = "const shown = $('answer').textContent; document.body.textContent = JSON.stringify([rows(), shown, saved]);"
    found = opened(tmp_path, html, name + act + csv_text + last)
    rows, shown, saved = found
    assert [(r["pair_id"], r["decision"], r["note"]) for r in rows] == [
        *(("p0", "reject", "no"), ("p1", "mend", ""), ("p2", "accept", ""), ("p9", "mend", "")),
    ]
    assert shown == "'=2"
    (tmp_path / "ann.csv").write_text(saved)
    assert [(d.pair_id, d.decision, d.answer) for d in read_decisions(tmp_path / "ann.csv")] == [
        *(("p0", "reject", ""), ("p1", "mend", "'=2"), ("p2", "accept", ""), ("p9", "mend", "")),
    ]


def opened(folder, html, script):
    """What a script leaves as JSON in the page, in a browser that has not seen it yet."""
    (folder / "page.html").write_text(html.replace("</body>", f"<script>{script}</script></body>"))
    command = ["chromium", "--headless", "--no-sandbox", f"--user-data-dir={folder / 'chromium'}", "--dump-dom"]
    done = subprocess.run(
        [*command, f"file://{folder}/page.html"], capture_output=True, text=True, timeout=120, check=True
    )
    body = done.stdout[done.stdout.index("<body>") + 6 : done.stdout.index("</body>")]
    return json.loads(unescape(body))


def test_screening_follows_the_reviews(tmp_path, encoder, run_script):
    text = "The power of CV1 is 17 MW. The manager of CV1 is Ingrid Tolvanen. The halls of CV1 hold 1,240 cabinets."
    write_rows(tmp_path / "chunks.jsonl", [Chunk("c", "g", "u", "metros", [], text, 30)])
    facts = [s.strip() + "." for s in text.split(".") if s.strip()]
    questions = [
        "What is the power of CV1?",
        "Who is the manager of CV1?",
        "How many cabinets do the halls of CV1 hold?",
    ]
    pairs = [Pair(f"p{i}", "c", "g", q, a, a, "k") for i, (q, a) in enumerate(zip(questions, facts, strict=True))]
    write_rows(tmp_path / "written.jsonl", pairs)
    write_rows(tmp_path / "ann.jsonl", [{"pair_id": "p1", "decision": "reject"}])
    files = {name: tmp_path / f"{name}.jsonl" for name in ("screened", "reviewed", "out", "dropped")}
    done = run_script(
        "screen_pairs",
        *("--pairs", tmp_path / "written.jsonl", "--chunks", tmp_path / "chunks.jsonl"),
        *("--encoder", encoder / "lock.json", "--near-duplicate", 0.95, "--wanted", 1),
        *("--decisions", tmp_path / "ann.jsonl", *(part for k, v in files.items() for part in (f"--{k}", v))),
    )
    assert done.returncode == 0, done.stderr
    assert [p.id for p in read_rows(files["screened"], Pair)] == ["p0", "p1", "p2"]
    assert len(read_rows(files["out"], Pair)) == 1
    reasons = [row["reason"] for _, row in iter_json_lines(files["dropped"])]
    assert sorted(reasons) == ["more than wanted", "rejected by review"]
