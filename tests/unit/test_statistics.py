"""Intervals, tests and power against their definitions, other libraries' numbers and simulated truth."""

import numpy as np
import pytest
from scipy import stats
from scipy.linalg import fractional_matrix_power

from tuneproof.scores.statistics import (
    Mean,
    cluster_variance,
    compare,
    detectable,
    estimate,
    holm,
    mean_of,
    permutation_p,
    power,
    questions_needed,
)

SIZES = [1, 2, 3, 4, 5, 6, 1]
PAGES = [str(page) for page, size in enumerate(SIZES) for _ in range(size)]


def clustered(random, pages, sd=0.7):
    page = np.array(pages, dtype=int)
    return random.normal(0, sd, page.max() + 1)[page] + random.normal(0, sd, len(page))


def cells(values, pages):
    page = np.array(pages, dtype=int)
    return np.bincount(page, values), np.bincount(page).astype(float), np.bincount(page, np.square(values))


@pytest.mark.parametrize("seed", range(4))
def test_variance_and_degrees_of_freedom_are_those_of_the_definition(seed):
    """CR2 and the Satterthwaite degrees of freedom with their matrices written out (Imbens and Kolesár 2016, eq. 9)."""
    values = clustered(np.random.default_rng(seed), PAGES)
    page, n = np.array(PAGES), len(PAGES)
    residual_maker = np.eye(n) - 1 / n
    variance, columns = 0.0, []
    for name in sorted(set(PAGES)):
        members = page == name
        adjustment = fractional_matrix_power(residual_maker[np.ix_(members, members)], -0.5).real
        variance += (adjustment @ (residual_maker @ values)[members]).sum() ** 2 / n**2
        columns.append(residual_maker[:, members] @ adjustment.sum(0) / n)
    sums, counts, squares = cells(values, PAGES)
    between = (sums**2 / counts).sum() - sums.sum() ** 2 / n
    within = (squares.sum() - (sums**2 / counts).sum()) / (n - 7)
    size = (n - (counts**2).sum() / n) / 6
    correlation = np.clip((between / 6 - within) / (between / 6 + (size - 1) * within), 0, 1)
    model = np.where(page[:, None] == page, correlation, 0.0) + (1 - correlation) * np.eye(n)
    matrix = np.array(columns) @ model @ np.array(columns).T

    mean, found, dof = cluster_variance(sums, counts, squares)
    assert mean == pytest.approx(values.mean())
    assert found == pytest.approx(variance)
    assert dof == pytest.approx(np.trace(matrix) ** 2 / np.trace(matrix @ matrix))


def test_with_one_question_a_page_it_is_the_t_test():
    random = np.random.default_rng(1)
    ours, theirs = random.normal(0.3, 1, 15), random.normal(0, 1, 15)
    found = compare(ours, theirs, [str(i) for i in range(15)], 1000)
    direct = stats.ttest_rel(ours, theirs)
    assert found.p == pytest.approx(direct.pvalue)
    assert (found.low, found.high) == pytest.approx(direct.confidence_interval(0.95))
    assert found.d_z == pytest.approx((ours - theirs).mean() / (ours - theirs).std(ddof=1))
    assert found.d_av == pytest.approx((ours - theirs).mean() / np.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / 2))
    assert found.design_effect == pytest.approx(1)


def test_studies_are_computed_at_once_as_one_by_one_and_an_empty_page_counts_for_nothing():
    random = np.random.default_rng(2)
    several = [cells(clustered(random, PAGES), PAGES) for _ in range(3)]
    together = cluster_variance(*(np.pad(np.stack(part), ((0, 0), (0, 2))) for part in zip(*several, strict=True)))
    assert np.stack(together, -1) == pytest.approx(np.array([cluster_variance(*one) for one in several]))


@pytest.mark.parametrize("pages", [8, 40])
def test_a_clustered_interval_covers_the_truth_95_times_in_100_and_questions_alone_do_not(pages):
    random = np.random.default_rng(0)
    page = np.repeat(np.arange(pages), 3)
    studies = [3 + clustered(random, page) for _ in range(1000)]
    found = [estimate(values, [str(p) for p in page]) for values in studies]
    naive = [stats.t.interval(0.95, len(page) - 1, v.mean(), v.std(ddof=1) / np.sqrt(len(page))) for v in studies]
    assert np.mean([e.low <= 3 <= e.high for e in found]) == pytest.approx(0.95, abs=0.02)
    assert np.mean([low <= 3 <= high for low, high in naive]) < 0.9


def test_an_estimate_of_few_values_says_what_it_cannot_say():
    assert estimate([], []).mean is None
    one_page = estimate([1.0, 2.0], ["a", "a"])
    assert (one_page.mean, one_page.low) == (1.5, None)
    assert compare([], [], [], 1000).mean is None
    alone = compare([1.0, 2.0], [0.0, 0.0], ["a", "a"], 1000)
    assert (alone.n, alone.pages, alone.mean, alone.p, alone.detectable) == (2, 1, 1.5, None, None)


def test_an_interval_on_a_scale_stays_on_it_and_reaches_towards_its_middle():
    values = [5.0, 5.0, 4.0, 5.0, 4.0, 5.0]
    straight, scaled = estimate(values, list("abcdef")), estimate(values, list("abcdef"), scale=(1.0, 5.0))
    assert straight.high > 5 > scaled.high
    assert scaled.low < straight.low
    odds = np.log((scaled.mean - 1) / (5 - scaled.mean))
    half = (straight.high - straight.mean) * 4 / ((scaled.mean - 1) * (5 - scaled.mean))
    assert scaled.high == pytest.approx(1 + 4 / (1 + np.exp(-odds - half))), "the delta method on the logit scale"


def test_where_no_page_differs_the_interval_is_of_the_pages_that_were_not_seen():
    """Clopper and Pearson's upper end for none of eight; scipy gives the same."""
    none = estimate([0.0] * 16, [str(i // 2) for i in range(16)], scale=(0.0, 1.0))
    exact = stats.binomtest(0, 8).proportion_ci(0.95, method="exact")
    assert (none.low, none.high) == pytest.approx((exact.low, exact.high))
    best = estimate([5.0, 5.0], ["a", "b"], scale=(1.0, 5.0))
    assert (best.low, best.high) == pytest.approx((5 - 4 * (1 - 0.025**0.5), 5))
    nothing = compare([0.0] * 8, [0.0] * 8, list("abcdefgh"), 1000, scale=(0.0, 1.0))
    assert (nothing.low, nothing.high) == pytest.approx((-exact.high, exact.high)), "unseen pages may differ either way"


def test_without_any_spread_p_is_the_permutations_and_nothing_is_claimed_of_power():
    found = compare([0.1 + 0.2] * 10, [0.1] * 10, list("abcdefghij"), 2000)
    assert found.low is found.high is None, "no scale says how far pages that were not seen could lie"
    assert found.p == found.p_permutation == pytest.approx(2 / 2**10)
    assert found.d_z is found.detectable is found.questions_needed is None
    assert compare([0.0] * 4, [0.0] * 4, list("abcd"), 1000).p == 1


def test_all_permutations_are_tried_where_they_are_few():
    sums, counts = np.array([3.0, 1.0, 2.0, -0.5]), np.ones(4)
    direct = stats.permutation_test((sums,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert permutation_p(sums, counts, 16) == direct.pvalue
    assert permutation_p(np.array([1.0, 2.0]), np.ones(2), 1000) == 0.5, "two pages cannot say more"


def test_random_permutations_agree_with_all_and_are_the_same_again():
    random = np.random.default_rng(3)
    sums, counts = random.normal(0.5, 1, 14), random.integers(1, 5, 14).astype(float)
    everything = permutation_p(sums, counts, 2**14)
    assert permutation_p(sums, counts, 10_000) == pytest.approx(everything, abs=0.02)
    assert permutation_p(sums, counts, 3000) == permutation_p(sums, counts, 3000)
    assert permutation_p(sums * 100, counts, 3000) == permutation_p(sums, counts, 3000)
    assert permutation_p(np.full(14, 9.0), counts, 3000) >= 1 / 3000, "the data themselves are one permutation"


def test_holm_is_statsmodels():
    """`multipletests([.01, .04, .03, .005, .2], method="holm")`, statsmodels 0.15.0."""
    assert holm([0.01, 0.04, 0.03, 0.005, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.2])
    assert holm([None, 0.02, None, 0.03]) == [None, 0.04, None, 0.04], "what was not tested is not counted"
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_power_and_what_follows_from_it_are_statsmodels():
    """`TTestPower().power(0.5, 20, 0.05)` and `.solve_power`, statsmodels 0.15.0: sd 1, 20 questions on 20 pages."""
    mean = Mean(0.0, by_page=1 / 20, page_dof=19)
    assert power(0.5 * 20**0.5, 19) == pytest.approx(0.5645044184, abs=1e-8)
    assert detectable(mean) == pytest.approx(0.6604416544, abs=1e-5)
    assert questions_needed(mean, 20, 0.3) == 90, "89.15, rounded up"
    assert questions_needed(mean, 20, 0.6604417) in (20, 21)


def test_a_design_effect_costs_questions():
    """Ten equal questions a page are one: ten times the questions for the same error."""
    values = np.random.default_rng(4).normal(0, 1, 30)
    pages = [str(i) for i in range(30)]
    one = compare(values, np.zeros(30), pages, 1000, wished=0.3)
    ten = compare(np.repeat(values, 10), np.zeros(300), np.repeat(pages, 10), 1000, wished=0.3)
    assert ten.design_effect == pytest.approx(10, rel=0.05)
    assert ten.detectable == pytest.approx(one.detectable, rel=1e-6)
    assert ten.questions_needed == pytest.approx(10 * one.questions_needed, rel=0.01)


def test_a_difference_as_large_as_detectable_is_found_in_80_of_100_studies():
    random = np.random.default_rng(5)
    page = [str(p) for p in np.repeat(np.arange(20), 3)]
    limit = np.mean([compare(clustered(random, page), np.zeros(60), page, 1000).detectable for _ in range(50)])
    found = [compare(clustered(random, page) + limit, np.zeros(60), page, 1000).p < 0.05 for _ in range(300)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def test_seeds_that_disagree_widen_the_interval():
    random = np.random.default_rng(6)
    page = [str(p) for p in np.repeat(np.arange(20), 3)]
    seed = clustered(random, page)
    alike = compare([seed, seed, seed], np.zeros(60), page, 1000)
    single = compare(seed, np.zeros(60), page, 1000)
    assert (alike.low, alike.high, alike.p) == pytest.approx((single.low, single.high, single.p))
    apart = compare([seed - 1, seed, seed + 1], np.zeros(60), page, 1000)
    assert apart.mean == pytest.approx(alike.mean)
    assert apart.high - apart.low > 2 * (alike.high - alike.low)
    assert apart.p_permutation is None, "flips of pages know nothing of seeds"


def test_the_seeds_part_is_the_variance_of_their_means_with_their_degrees_of_freedom():
    values = np.array([[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0], [3.0, 4.0, 5.0, 6.0]])
    mean = mean_of(values, list("abcd"))
    by_page = np.var([2, 3, 4, 5], ddof=1) / 4
    assert (mean.value, mean.by_page, mean.by_seed) == pytest.approx((3.5, by_page, 1 / 3))
    assert mean.dof == pytest.approx((by_page + 1 / 3) ** 2 / (by_page**2 / 3 + (1 / 3) ** 2 / 2))


def test_more_questions_do_not_help_against_seeds_that_disagree():
    assert questions_needed(Mean(0.0, 0.01, 19, by_seed=0.3, seed_dof=2), 60, 0.2) is None


def test_no_difference_is_said_to_be_beyond_the_ends_of_the_scale():
    ours, theirs = [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]
    found = compare(ours, theirs, ["a", "b", "c"], 1000, (0, 1))
    assert found.high == 1.0 and -1.0 < found.low < 0
    assert compare(ours, theirs, ["a", "b", "c"], 1000).high > 1.0
