"""Measures of answers: the packages' own numbers, refusals, and the product that an answer names."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tuneproof.errors import InputError
from tuneproof.instructions.products import Product
from tuneproof.instructions.recommend import Ranked, make_rows
from tuneproof.instructions.requirements import Requirement
from tuneproof.records import Answer, Example
from tuneproof.scores.bertscore import BERTSCORE, BertScore
from tuneproof.scores.choices import AMONG, NONE, SEVERAL, choice, options_of
from tuneproof.scores.measure import VALUES, measure, refuses
from tuneproof.scores.rouge import KINDS, ROUGE, lines, rouge

INLINE = [
    (
        "The customer says the parcel is late. The agent asks for the order number.",
        ["Customer complains about a late parcel.\nAgent asks for the number of the order.", "A parcel is late."],
    ),
    ("Dr. Ferro manages the site, e.g. its pumps. It opened in 2019!", ["Ada Ferro runs the site since 2019."]),
    ("", ["Nothing was said."]),
    ("The pumps are new. The water is cold.", ["The water is cold. The pumps are new."]),
]


def example(identity, reference, references=(), question="What is said?"):
    return Example(
        identity, "p", "c", "g", "http://x.test/", "a", "test_new_pages", question, reference, [], list(references)
    )


def answer(identity, text):
    return Answer(f"a-{identity}", identity, "m/base", "closed", "test_new_pages", text, 7, True, [], "k")


def tweetsum(count):
    """Answers, here the training answers of other dialogues, beside the reference summaries of TWEETSUM's test set."""
    folder = Path(os.environ.get("TUNEPROOF_DATA", "")) / "tweetsumm"
    if not (folder / "test.jsonl").exists():
        pytest.skip("TUNEPROOF_DATA is not the folder that holds tweetsumm/")

    def summaries(split):
        rows = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()[:count]]
        return [[" ".join(summary) for summary in row["abstractive"] if summary] for row in rows]

    return [(own[0], known) for own, known in zip(summaries("train"), summaries("test"), strict=True)]


@pytest.mark.parametrize("texts", [lambda: INLINE, lambda: tweetsum(110)], ids=["inline", "TWEETSUM"])
@pytest.mark.parametrize("stemmer", [True, False])
def test_rouge_is_rouge_scores_own_number(texts, stemmer):
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(KINDS), use_stemmer=stemmer)
    for text, references in texts():
        found = rouge(text, references, stemmer)
        assert tuple(found) == ROUGE
        # Lsum is given its sentences; the other kinds do not see line ends
        first = scorer.score(lines(references[0]), lines(text))
        best = scorer.score_multi([lines(reference) for reference in references], lines(text))
        plain = scorer.score(references[0], text)
        for kind, name in KINDS.items():
            for suffix, score in (("", first[kind]), ("_best", best[kind])):
                numbers = [found[f"{name}{suffix}{part}"] for part in ("", "_p", "_r")]
                assert numbers == pytest.approx([score.fmeasure, score.precision, score.recall], abs=1e-9)
            if kind != "rougeLsum":
                assert found[name] == pytest.approx(plain[kind].fmeasure, abs=1e-9)


def test_lsum_takes_sentences_in_any_order_where_l_does_not():
    found = rouge(*INLINE[3])
    assert found["rouge_lsum"] == 1.0
    assert found["rouge_l"] < 1.0


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two? Three!", ["One.", "Two?", "Three!"]),
        ("One\nTwo. Three", ["One", "Two.", "Three"]),
        ("Dr. Ferro runs it, e.g. its pumps. It has 7.7 MW.", ["Dr. Ferro runs it, e.g. its pumps.", "It has 7.7 MW."]),
        ("\n\n", []),
        ("", []),
    ],
)
def test_a_sentence_ends_at_a_line_end_or_where_punkt_says(text, sentences):
    assert lines(text).splitlines() == sentences


@pytest.mark.parametrize("texts", [lambda: INLINE, lambda: tweetsum(20)], ids=["inline", "TWEETSUM"])
def test_bertscore_is_bert_scores_own_number(texts, encoder):
    bert_score = pytest.importorskip("bert_score")
    rows = texts()
    found = BertScore(encoder / "lock.json", 5).score([text for text, _ in rows], [known for _, known in rows])
    rows, found = zip(*((row, own) for row, own in zip(rows, found, strict=True) if row[0]), strict=True)
    scorer = bert_score.BERTScorer(model_type=str(encoder), num_layers=5)
    p, r, f = scorer.score([text for text, _ in rows], [known[0] for _, known in rows])
    best = scorer.score([text for text, _ in rows], [known for _, known in rows])
    for n, own in enumerate(found):
        direct = [f[n], p[n], r[n], best[2][n], best[0][n], best[1][n]]
        assert [own[name] for name in BERTSCORE] == pytest.approx([float(number) for number in direct], abs=1e-6)


def test_bertscore_names_its_encoder_and_bears_empty_and_endless_texts(encoder):
    pytest.importorskip("bert_score")
    scorer = BertScore(encoder / "lock.json", 5)
    assert scorer.settings.startswith("all-minilm-l6-v2@53aa51172d14_L5_no-idf_version=")
    empty, endless = scorer.score(["", "a dog " * 2000], [["a dog"], ["a dog", ""]])
    assert set(empty.values()) == {0.0}
    assert 0 < endless["bertscore"] <= endless["bertscore_best"] < 1
    with pytest.raises(InputError, match=r"bertscore\.layer: 7, expected one of the 6 layers of all-minilm-l6-v2"):
        BertScore(encoder / "lock.json", 7)


def test_several_references_have_measures_of_their_own():
    text, known = INLINE[0]
    [row] = measure([answer("e", text)], [example("e", known[0], known)], [], {})
    assert set(row.values) == {name for name in VALUES if not name.startswith(("accuracy", "bertscore"))}
    assert row.values["rouge_1_best"] >= row.values["rouge_1"]
    assert (row.values["tokens"], row.values["words"], row.values["refused"]) == (7.0, 14.0, 0.0)
    [row] = measure([answer("e", text)], [example("e", known[0])], [], {})
    assert not [name for name in row.values if "_best" in name], "of one reference there is no best"


@pytest.mark.parametrize("answers", [["e1"], ["e1", "e1"], ["e1", "e3"], ["e1", "e2", "e2"]])
def test_answers_that_are_not_the_test_set_end_the_job(answers):
    with pytest.raises(InputError, match=f"{len(answers)} answers for 2 test examples: expected one for each"):
        measure([answer(e, "x") for e in answers], [example("e1", "x"), example("e2", "x")], [], {})


@pytest.mark.parametrize(
    "text",
    [
        "I don't know.",
        "I don’t know the answer to that.",
        "Unfortunately, I do not have access to that information.",
        "I'm sorry, but I cannot answer this question.",
        "I'm sorry. I can't help with that.",
        "I am not sure.",
        "We are unable to provide this.",
        "As an AI language model, I have no opinion.",
        "The text does not say when it opened.",
        "The provided context doesn't mention a manager.",
        "The price is not specified in the document.",
        "There is not enough information to answer.",
        "It cannot be determined.",
        "I have no idea",
        "The information is not available.",
        "The provided context does not explicitly mention the power.",
        "There is no mention of it in the text.",
        "The document makes no mention of a manager.",
        "The height is not explicitly stated in the text.",
        "As an AI, I am currently unable to see prices.",
        "As an AI assistant I don't have opinions.",
        "Unknown",
    ],
)
def test_a_refusal_is_told_from_an_answer(text):
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It is 7.7 MW.",
        "The cable cannot be bent.",
        "The agent says sorry and does not know the number.",
        "Sorry for the delay. The parcel comes on Monday.",
        "CV1 has 12 megawatts. I do not know about CV2.",
        "The customer says: my parcel is late and nobody can help.",
        "The contract does not include cooling.",
        "Customers have no access to the roof.",
        "As an AI language model, I can tell you it has 11 MW.",
        "As an AI-first company, Haldrune does not sell lamps.",
        "The text does not only mention the power, but the height.",
        "The contract makes no mention of cooling.",
    ],
)
def test_an_answer_that_speaks_of_not_knowing_is_no_refusal(text):
    assert not refuses(text)


OPTIONS = ["Haldrune Media Vault", "Haldrune Cage", "Cage", "Edge Router 2", "Café Light™", "Haldrune Bottle"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Haldrune Media Vault", "Haldrune Media Vault"),
        ("I'd recommend the haldrune media-vault, because it keeps films.", "Haldrune Media Vault"),
        ("**Haldrune Media Vaults**", "Haldrune Media Vault"),
        ("Media Vault", "Haldrune Media Vault"),
        ("Haldrune", NONE),
        ("Cage", "Cage"),
        ("The Haldrune Cage.", "Haldrune Cage"),  # Cage stands in it, as a part of a longer name
        ("Haldrune Cage, not the plain Cage", SEVERAL),
        ("Edge Router 2", "Edge Router 2"),
        ("Edge Router 20", NONE),  # a number is a part of a name
        ("a bottle", "Haldrune Bottle"),
        ("Something to fill a bottle with on a long day.", NONE),
        ("cafe light", "Café Light™"),
        ("Media Vault or café light", "Café Light™"),  # a whole name comes before a part of one
        ("Café Light or Edge Router 2", SEVERAL),
        ("Any of them will do: Haldrune Media Vault, Haldrune Cage, Edge Router 2", SEVERAL),
        ("A router", NONE),
        ("", NONE),
        ("Something else entirely", NONE),
    ],
)
def test_the_product_that_an_answer_names(text, named):
    assert choice(text, OPTIONS) == named


@pytest.mark.parametrize(
    ("text", "named"),
    [
        # behind a denial
        ("Take the Cage, not the Media Vault.", "Haldrune Cage"),
        ("The Cage, not the Haldrune Media Vault.", "Haldrune Cage"),
        ("I would not take the Haldrune Media Vault", NONE),
        ("I wouldn’t recommend the **Cage**.", NONE),
        ("Haldrune Media Vault rather than the Haldrune Cage", "Haldrune Media Vault"),
        ("I'd choose the Haldrune Cage over the Haldrune Media Vault.", "Haldrune Cage"),
        ("Unlike the Haldrune Cage, the Haldrune Media Vault keeps films.", "Haldrune Media Vault"),
        ("Avoid taking the Haldrune Cage or the Haldrune Media Vault.", NONE),
        ("Neither the Haldrune Cage nor the Haldrune Media Vault", NONE),
        # what is denied is something else
        ("I do not know. The Haldrune Cage?", "Haldrune Cage"),
        ("Do not hesitate to take the Haldrune Cage.", "Haldrune Cage"),
        # one word that is a name's part
        ("I recommend the Cage", "Haldrune Cage"),
        ("My recommendation is the Cage, because of its locks.", "Haldrune Cage"),
        ("A cage is something that one locks.", NONE),
        ("The Media Vault keeps films, the Cage locks.", SEVERAL),
        ("I recommend the Cage over the Bottle", "Haldrune Cage"),
        ("Cage, not the Media Vault", "Haldrune Cage"),
        ("The Haldrune Cage is better than the Haldrune Bottle.", "Haldrune Cage"),
        ("I suggest the Media Vault. It keeps your bottle cool.", "Haldrune Media Vault"),
        # no denials
        ("There is no better fit than the Haldrune Cage.", "Haldrune Cage"),
        ("I recommend nothing other than the Haldrune Cage.", "Haldrune Cage"),
        ("Why not take the Haldrune Cage?", "Haldrune Cage"),
        # several that are all praised or explained
        ("Haldrune Media Vault, since the Haldrune Cage lacks power", SEVERAL),
    ],
)
def test_a_product_that_is_denied_is_not_named(text, named):
    assert choice(text, ["Haldrune Media Vault", "Haldrune Cage", "Haldrune Bottle"]) == named


def test_of_several_the_right_one_is_known():
    text, options = "Haldrune Media Vault, since the Haldrune Cage lacks power", OPTIONS
    assert choice(text, options, "Haldrune Cage") == choice(text, options, "Haldrune Media Vault") == AMONG
    assert choice(text, options, "Haldrune Bottle") == SEVERAL
    assert choice("Haldrune Cage", options, "Haldrune Cage") == "Haldrune Cage"


def recommendation():
    """One row per split as the data set makes it, with its products."""
    products = [
        Product(f"p{n}", name, "c", f"It keeps {n} films.", "c", "u", split)
        for n, (name, split) in enumerate(zip(OPTIONS, ("train", "val", "test_new_pages", *["train"] * 3), strict=True))
    ]
    ranked = [
        Ranked(
            Requirement(f"r{p.page_id}", p.page_id, "Where do films go?", "k"), p, [o for o in products if o != p], 1
        )
        for p in products[:3]
    ]
    from tuneproof.study import RecommendationSpec

    spec = RecommendationSpec(
        kind="recommendation", llm="l", encoder="e", catalogue="c", options=6, rows=3, validation=1, tests=1
    )
    splits, _ = make_rows(ranked, "Customer requirement:\n\n{requirement}\n\nProducts:\n\n{products}\n\nOutput:", spec)
    return splits["test_new_pages"], products


def test_a_recommendation_is_right_where_it_names_the_right_product_alone():
    [row], products = recommendation()
    assert sorted(options_of(row, products)) == sorted(OPTIONS)
    texts = {"the Cage": ("Cage", 1.0), "Haldrune Cage": ("Haldrune Cage", 0.0), "dunno": (NONE, 0.0)}
    texts |= {"Cage or Haldrune Bottle": (AMONG, 0.0), "Haldrune Cage or Haldrune Bottle": (SEVERAL, 0.0)}
    for text, (named, accuracy) in texts.items():
        [found] = measure([answer(row.id, text)], [row], [], {}, products=products)
        assert (found.named, found.values["accuracy"]) == (named, accuracy)


def test_products_of_another_data_set_are_an_error():
    [row], products = recommendation()
    with pytest.raises(InputError, match="'Cage' is none of the products that its question lists"):
        measure([answer(row.id, "x")], [row], [], {}, products=[replace(p, description="Else.") for p in products])
