"""Retrievers find what a reader would; fusion and metrics are those of the literature; the table says what it is."""

import json
import math

import pytest

from tuneproof.corpus.index import Encoder, searched_text, write_index
from tuneproof.corpus.retrieve import DEPTH, bm25, fuse, rerank, words
from tuneproof.errors import InputError
from tuneproof.records import Chunk, Example, Retrieved, read_json, read_rows, write_json, write_rows
from tuneproof.scores.retrieval import as_markdown, count_found, measure, metrics_at, rank_of

TEXTS = {
    "power": "Building CV1 draws 17.4 megawatts from two substations.",
    "manager": "The site manager of CV1 is Ingrid Tolvanen, who joined in 2011.",
    "cable": "A cross connect is a physical cable between two parties in the same hall.",
    "visits": "Visitors show a passport at the gate and are met by security staff.",
}


def chunk(name, text, page=None):
    return Chunk(name, page or f"page-{name}", f"http://x.test/{name}", name[0], ["Haldrune"], text, 20)


def example(name, question, source, split="test_new_pages"):
    return Example(name, f"pair-{name}", source, f"page-{source}", "u", source[0], split, question, "Yes.", [])


CHUNKS = [chunk(name, text) for name, text in TEXTS.items()]


def found(ranking, chunks=CHUNKS):
    return [chunks[row].id for row, _ in ranking]


# --- BM25 ---


def test_bm25_puts_the_chunk_first_that_shares_the_rare_word():
    rankings = bm25(["Who is Ingrid Tolvanen?", "How many megawatts does the building draw?"], CHUNKS)
    assert [found(ranking)[0] for ranking in rankings] == ["manager", "power"]


def test_a_chunk_without_a_shared_word_has_no_rank():
    assert found(bm25(["Tolvanen"], CHUNKS)[0]) == ["manager"]


@pytest.mark.parametrize("question", ["", "?!", "zzz qqq"])
def test_a_question_without_a_known_word_finds_nothing(question):
    assert bm25([question], CHUNKS) == [[]]


def test_headings_are_searched_too():
    assert len(bm25(["Haldrune"], CHUNKS)[0]) == len(CHUNKS)


def test_equal_chunks_are_ranked_in_their_order_and_no_deeper_than_the_depth():
    copies = [chunk(f"copy{n}", "The same words in each chunk.") for n in range(DEPTH + 20)]
    [ranking] = bm25(["same words"], copies)
    assert [row for row, _ in ranking] == list(range(DEPTH))


def test_bm25_is_the_formula():
    """Robertson and Zaragoza 2009 with Lucene's idf: ln(1 + (N - df + 0.5) / (df + 0.5)), k1 1.5, b 0.75."""
    [ranking] = bm25(["Tolvanen"], CHUNKS)
    lengths = [len(words(searched_text(c))) for c in CHUNKS]
    idf = math.log(1 + (4 - 1 + 0.5) / (1 + 0.5))
    norm = 1.5 * (1 - 0.75 + 0.75 * lengths[1] / (sum(lengths) / 4))
    assert ranking[0][1] == pytest.approx(idf / (1 + norm), rel=1e-5)


def test_words_of_any_language_count():
    assert words("Größe: ÖSTERREICH's raid_interface 17.4") == [
        "grösse",
        "österreich",
        "s",
        "raid_interface",
        "17",
        "4",
    ]


# --- fusion ---


def test_fusion_is_by_reciprocal_rank():
    """Cormack, Clarke and Büttcher 2009, by hand: chunk 2 is second and first, chunk 1 first only."""
    [ranking] = fuse([[[(1, 0.9), (2, 0.8)]], [[(2, 7.0), (3, 6.0)]]])
    assert [row for row, _ in ranking] == [2, 1, 3]
    assert ranking[0][1] == pytest.approx(1 / 62 + 1 / 61)
    assert ranking[1][1] == pytest.approx(1 / 61)


def test_what_one_retriever_does_not_find_the_other_gives():
    assert fuse([[[]], [[(5, 1.0)]]]) == [[(5, 1 / 61)]]


# --- a cross-encoder ---


def make_cross_encoder(folder, outputs=1):
    """A tiny BERT with random weights and the words of TEXTS."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({w for t in TEXTS.values() for w in words(t)})]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=outputs,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    size = (folder / "config.json").stat().st_size
    file = {"name": "config.json", "sha256": "0" * 64, "size": size}
    spec = {"licence": "MIT", "format": "transformers", "context": 32, "files": [file], "model": "tiny"}
    write_json(folder / "lock.json", spec)
    return folder / "lock.json"


def test_a_cross_encoder_gives_the_order_and_drops_nothing(tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    lock = make_cross_encoder(tmp_path)
    questions = ["Who is Ingrid Tolvanen?", "cable " * 40]  # the second is longer than the model reads
    before = [[(0, 3.0), (1, 2.0), (3, 1.0)], [(2, 1.0)]]
    after = rerank(questions, CHUNKS, before, lock)
    assert [{row for row, _ in ranking} for ranking in after] == [{0, 1, 3}, {2}]
    assert [score for _, score in after[0]] == sorted((score for _, score in after[0]), reverse=True)
    # the score is the model's own, one pair at a time
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    for row, score in after[0]:
        encoded = tokenizer(questions[0], searched_text(CHUNKS[row]), return_tensors="pt")
        with torch.inference_mode():
            assert score == pytest.approx(model(**encoded).logits.item(), abs=1e-5)


def test_a_model_that_is_no_cross_encoder_is_refused(tmp_path):
    with pytest.raises(InputError, match="3 outputs, expected a cross-encoder with one"):
        rerank(["Who?"], CHUNKS, [[(0, 1.0)]], make_cross_encoder(tmp_path, outputs=3))


# --- metrics ---


@pytest.mark.parametrize(
    ("rank", "recall", "reciprocal", "ndcg"),
    [
        (1, (1, 1, 1, 1), 1, 1),
        (2, (0, 1, 1, 1), 1 / 2, 1 / math.log2(3)),
        (5, (0, 0, 1, 1), 1 / 5, 1 / math.log2(6)),
        (10, (0, 0, 0, 1), 1 / 10, 1 / math.log2(11)),
        (11, (0, 0, 0, 0), 1 / 11, 0),
        (None, (0, 0, 0, 0), 0, 0),
    ],
)
def test_metrics_of_one_question(rank, recall, reciprocal, ndcg):
    assert list(metrics_at(rank).values()) == pytest.approx([*recall, reciprocal, ndcg])


def test_a_rank_counts_from_one():
    assert (rank_of("a", ["a", "b"]), rank_of("b", ["a", "b"]), rank_of("c", ["a", "b"])) == (1, 2, None)


def test_a_table_has_all_questions_first_then_each_group_with_a_paired_difference_over_all():
    examples = [example(f"e{n}", "Which?", source) for n, source in enumerate(["power", "manager", "cable", "power"])]
    right = [[e.chunk_id] for e in examples]
    rows = measure(examples, {"dense": [["visits", *ids] for ids in right], "bm25": right})
    assert [(r.retriever, r.group) for r in rows[:4]] == [
        ("dense", None),
        ("bm25", None),
        ("dense", "c"),
        ("bm25", "c"),
    ]
    dense, best = rows[:2]
    assert (dense.pages, dense.metrics["MRR"].n) == (3, 4)
    assert (dense.metrics["recall@1"].mean, dense.metrics["recall@3"].mean, dense.metrics["MRR"].mean) == (0, 1, 0.5)
    assert dense.gain is None
    assert best.gain.mean == 0.5, "every question gains a half"
    differ = 1 - 0.025 ** (1 / 3)  # of pages that have not been seen
    assert (best.gain.low, best.gain.high) == pytest.approx((0.5 - 1.5 * differ, 0.5 + 0.5 * differ))
    table = as_markdown("d", rows, 4)
    assert "For MRR a chunk that is not among the first 100 is not found." in table
    assert "| dense | all | 4 | 3 | 0.00 (0.00 to 0.71) |" in table
    assert "+0.50 (−0.56 to +0.85)" in table
    assert "Only the chunk that a question was written from counts as right" in table


def test_what_the_arm_was_given_is_counted_by_split():
    examples = [
        example("a", "?", "power"),
        example("b", "?", "cable"),
        example("c", "?", "cable", "test_trained_pages"),
    ]
    given = {"a": ["power"], "b": ["power"], "c": ["visits", "cable"]}
    assert count_found(examples, given) == {
        "test_new_pages": {"questions": 2, "source_found": 1},
        "test_trained_pages": {"questions": 1, "source_found": 1},
    }


# --- the scripts ---


@pytest.fixture
def corpus(tmp_path, encoder):
    """Chunks, their index, and questions that share words with their chunk or mean what it says."""
    write_rows(tmp_path / "chunks.jsonl", CHUNKS)
    with (tmp_path / "chunks.faiss").open("wb") as stream:
        write_index(stream, [Encoder(encoder / "lock.json").embed([searched_text(c) for c in CHUNKS], "embed")])
    write_rows(tmp_path / "train.jsonl", [example("a", "Who is Ingrid Tolvanen?", "manager", "train")])
    write_rows(
        tmp_path / "test.jsonl",
        [example("b", "What identification do guests need?", "visits"), example("c", "Who runs CV1?", "manager")],
    )
    return tmp_path


def searched(run_script, corpus, encoder, retriever, *more):
    arguments = ["--examples", corpus / "train.jsonl", corpus / "test.jsonl", "--chunks", corpus / "chunks.jsonl"]
    arguments += ["--index", corpus / "chunks.faiss", "--encoder", encoder / "lock.json", "--retriever", retriever]
    done = run_script("retrieve", *arguments, "--top-k", 2, "--out", corpus / f"{retriever}.jsonl", *more)
    assert done.returncode == 0, done.stderr
    return read_rows(corpus / f"{retriever}.jsonl", Retrieved)


def test_each_retriever_gives_every_question_its_chunks(run_script, corpus, encoder):
    rows = {name: searched(run_script, corpus, encoder, name) for name in ("dense", "bm25", "fused", "oracle")}
    assert all([row.example_id for row in of_one] == ["a", "b", "c"] for of_one in rows.values())
    assert [row.chunk_ids for row in rows["oracle"]] == [["manager"], ["visits"], ["manager"]]
    assert [row.chunk_ids[0] for row in rows["dense"]][:2] == ["manager", "visits"], "guests are visitors"
    assert rows["bm25"][0].chunk_ids[0] == "manager"
    assert rows["bm25"][1].chunk_ids == [], "no word is shared, not even a common one"
    assert all(len(row.chunk_ids) == 2 for row in rows["fused"] + rows["dense"])


def test_a_reranker_sorts_what_was_found(run_script, corpus, encoder):
    lock = make_cross_encoder(corpus / "cross")
    plain = searched(run_script, corpus, encoder, "dense")
    sorted_anew = searched(run_script, corpus, encoder, "dense", "--reranker", lock)
    assert [len(row.chunk_ids) for row in sorted_anew] == [2, 2, 2]
    assert [row.chunk_ids for row in sorted_anew] != [row.chunk_ids for row in plain]


def test_retrieval_is_measured_over_all_splits_and_counted_as_the_arm_was_given(run_script, corpus, encoder):
    searched(run_script, corpus, encoder, "dense")
    done = run_script(
        "measure_retrieval", "--dataset", "d", "--splits", corpus / "train.jsonl", corpus / "test.jsonl",
        "--retrieved", corpus / "dense.jsonl", "--retrieval", json.dumps({"top_k": 2, "reranker": "cross"}),
        "--chunks", corpus / "chunks.jsonl", "--index", corpus / "chunks.faiss", "--encoder", encoder / "lock.json",
        "--reranker", make_cross_encoder(corpus / "cross"),
        "--out", corpus / "retrieval.json", "--table", corpus / "retrieval.md",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = read_json(corpus / "retrieval.json")
    overall = [row for row in measured["retrievers"] if row["group"] is None]
    assert [row["retriever"] for row in overall] == ["dense", "bm25", "fused", "dense, reranked"]
    assert {row["metrics"]["recall@10"]["n"] for row in overall} == {3}
    assert overall[0]["metrics"]["recall@10"]["mean"] == 1, "all four chunks are among the first ten"
    assert overall[1]["metrics"]["recall@10"]["mean"] == pytest.approx(2 / 3)
    assert measured["retriever"] == "dense, reranked"
    assert sum(counts["questions"] for counts in measured["splits"].values()) == 3
    assert (corpus / "retrieval.md").read_text().count("| dense, reranked |") == 3, "all, and two groups"
