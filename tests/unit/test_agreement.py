"""Alpha and kappa against published examples and other libraries; the table's rows; intervals by page."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from tuneproof.errors import InputError
from tuneproof.scores.agreement import agree, by_page, ordinal_alpha, quadratic_kappa

ROOT = Path(__file__).parents[2]
NONE = np.nan
# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", part D: four observers, twelve units
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
        [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
    ]
).T[:11]  # one observer alone pairs nothing


def alpha(scores):
    return ordinal_alpha(scores, np.ones((1, len(scores))))[0]


def test_alpha_is_krippendorffs_published_number():
    assert alpha(PUBLISHED) == pytest.approx(0.815, abs=5e-4)


def test_alpha_of_scores_that_are_no_whole_numbers():
    """0.9498898678 by the package krippendorff 0.9.0, level "ordinal"."""
    scores = np.array([[3.27, 1.5, 4.9, 2.2, 3.3], [3.1, 1.7, 4.2, 2.9, NONE], [3.27, 1.1, 4.4, 1.9, 4.0]]).T
    assert alpha(scores) == pytest.approx(0.9498898678, abs=1e-9)
    assert alpha(np.exp(scores)) == pytest.approx(alpha(scores)), "only the order counts"


def test_a_weight_is_so_many_copies():
    weights = np.array([3, 1, 0, 2, 1, 1, 1, 0, 1, 1, 2])
    assert ordinal_alpha(PUBLISHED, weights[None].astype(float))[0] == pytest.approx(
        alpha(np.repeat(PUBLISHED, weights, axis=0))
    )


def test_kappa_is_sklearns():
    random = np.random.default_rng(0)
    scores = np.clip(random.integers(1, 6, (80, 1)) + random.integers(-1, 2, (80, 2)), 1, 5)
    direct = cohen_kappa_score(*scores.T, weights="quadratic", labels=[1, 2, 3, 4, 5])
    assert quadratic_kappa(scores.astype(float), np.ones((1, 80)))[0] == pytest.approx(direct)
    assert quadratic_kappa(scores + random.uniform(-0.49, 0.49, (80, 2)), np.ones((1, 80)))[0] == pytest.approx(direct)


def test_what_cannot_be_told_is_none():
    pages = list("abcd")
    same = np.full((4, 2), 5.0)
    perfect = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]])
    for measure in (ordinal_alpha, quadratic_kappa):
        assert by_page(measure, same, pages) == (None, None, None), "nothing differs"
        assert by_page(measure, perfect, pages) == (1.0, None, None)
        assert by_page(measure, perfect[:0], []) == (None, None, None)
        value, low, high = by_page(measure, np.array([[1.0, 2.0], [3.0, 3.0]]), ["a", "a"])
        assert 0 < value < 1 and low is high is None, "one page says nothing of others"


def test_pages_not_answers_make_the_interval():
    random = np.random.default_rng(1)
    scores = np.clip(random.integers(1, 6, (20, 1)) + random.integers(-1, 2, (20, 2)), 1, 5).astype(float)
    value, low, high = by_page(quadratic_kappa, scores, [str(i) for i in range(20)])
    copied = by_page(quadratic_kappa, np.repeat(scores, 5, axis=0), [str(i) for i in range(20) for _ in range(5)])
    assert low < value < high <= 1
    assert copied == pytest.approx((value, low, high))


def rows(judges=("a", "b", "c"), arms=("base", "tune")):
    random = np.random.default_rng(2)
    true = random.integers(1, 6, 40)

    def scores(i):
        given = {judge: float(np.clip(true[i] + random.integers(-1, 2), 1, 5)) for judge in judges}
        return given | {"a": None} if i == 0 else given

    return [
        {"dataset": "d", "split": "s", "arm": arm, "page_id": f"p{i // 4}", "scores": scores(i)}
        for arm in arms
        for i in range(40)
    ]


def test_the_table_has_alpha_and_every_pair_over_all_arms_and_by_arm():
    table = agree(rows(), {"b": True})
    assert [(line["arm"], line["measure"], line["judges"]) for line in table[:5]] == [
        ("all arms", "krippendorff_alpha", "a, b, c"),
        ("all arms", "weighted_kappa", "a, b"),
        ("all arms", "weighted_kappa", "a, c"),
        ("all arms", "weighted_kappa", "b, c"),
        ("base", "krippendorff_alpha", "a, b, c"),
    ]
    assert len(table) == 3 * 4
    assert [(line["n"], line["missing"]) for line in table[:4]] == [(80, 0), (78, 2), (78, 2), (80, 0)]
    assert all(line["ci_low"] < line["value"] < line["ci_high"] for line in table)
    assert [line["marked"] for line in table[:4]] == ["b", "b", "", "b"], "that beat no metric on trial"


def test_one_judge_has_nobody_to_agree_with():
    with pytest.raises(InputError, match=r"scores by 1 judge\(s\) \(a\): expected two or more"):
        agree(rows(judges=("a",)), {})


def test_the_script_writes_the_table(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    command = [sys.executable, ROOT / "scripts/tabulate_agreement.py", "--rows", tmp_path / "rows.jsonl"]
    subprocess.run([*command, "--out", tmp_path / "agreement.csv"], check=True)
    with (tmp_path / "agreement.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [float(line["value"]) for line in table] == pytest.approx(
        [line["value"] for line in agree(rows(), {"b": True})], rel=1e-5
    )
