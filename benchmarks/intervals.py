"""Do the table's intervals and tests hold what they promise, on studies whose truth is known: `make bench-statistics`.

    python benchmarks/intervals.py [--studies 2000] [--out benchmarks/intervals.json]

Simulated studies have scores from 1 to 5, most of them 4 and 5, questions clustered by page (1 to 8 on each), 5 % of
the scores missing, and two or more arms that answer the same questions. ICC is the correlation of a page's questions
before they are cut into five scores. Contenders see the same studies:

- by question: Student's t over the questions, as if each had a page of its own;
- percentiles: 2,000 bootstrap resamples of pages;
- ours: the t-interval with the variance CR2 (tuneproof.scores.statistics).

Five parts: one comparison, the differences of a whole table, runs with several seeds, shares near zero, and the
agreement of judges.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from llm import HERE, machine
from scipy import optimize, stats

sys.path.append(str(HERE.parent / "scripts"))
from tuneproof.scores.agreement import by_page, quadratic_kappa
from tuneproof.scores.statistics import (
    LEVEL,
    cluster_variance,
    holm,
    permutation_p,
    satterthwaite,
    t_interval,
    t_test,
    unvarying_interval,
)

PAGES, ICCS = (8, 20, 60), (0.1, 0.3, 0.6)
# latent values below the first are scored 1, above the last 5: shares 5, 11, 18, 35 and 31 %
CUTS = np.array([-1.6, -1.0, -0.4, 0.5])
MOST, MISSING, RESAMPLES, FLIPS = 8, 0.05, 2000, 1000
JUDGES, JUDGE_SHARE = 2, 0.8  # of a judge's latent variance, what the judges share


@dataclass(frozen=True)
class Truth:
    """How an arm's latent values differ from the base's: their spread is multiplied, then a shift is added."""

    name: str
    shift: float = 0.0
    spread: float = 1.0


def expected(shift: float, spread: float) -> float:
    """The mean score of normal latent values."""
    return 1 + float(stats.norm.sf((CUTS - shift) / spread).sum())


def same_mean(spread: float, of: float = 1.0) -> float:
    """The shift with which values of another spread have the base's mean score; `of`: the factor before a shift."""
    return float(optimize.brentq(lambda s: expected(of * s, spread) - expected(0, 1), -5, 5))


TRUTHS = (Truth("alike"), Truth("same mean, wider", same_mean(1.6), 1.6), Truth("better", 0.4))


class Draw:
    """Studies of so many pages: which questions there are, and how hard these are for every arm alike."""

    def __init__(self, random: Any, studies: int, pages: int, icc: float) -> None:
        self.random, self.icc = random, icc
        self.shape = (studies, pages, MOST)
        self.there = np.arange(MOST) < 1 + np.minimum(random.poisson(3, (studies, pages, 1)), MOST - 1)
        self.hard = self._latent()

    def _latent(self) -> Any:
        page = self.random.standard_normal((*self.shape[:2], 1), dtype=np.float32)
        return np.sqrt(self.icc) * page + np.sqrt(1 - self.icc) * self.random.standard_normal(self.shape, np.float32)

    def arm(self, truth: Truth, seed_sd: float = 0.0) -> Any:
        """An arm's latent values: half of their variance is the questions', half its own, pages in both."""
        own = np.sqrt(0.5) * (self.hard + self._latent())
        seed = seed_sd * self.random.standard_normal((self.shape[0], 1, 1), dtype=np.float32)
        return truth.spread * (own + seed) + truth.shift

    def judged(self, latent: Any) -> Any:
        noise = self.random.standard_normal(self.shape, dtype=np.float32)
        return self.scores(np.sqrt(JUDGE_SHARE) * latent + np.sqrt(1 - JUDGE_SHARE) * noise)

    def scores(self, latent: Any) -> Any:
        """Scores from 1 to 5, NaN where there is no question or the judge gave none."""
        scores = 1.0 + (latent[..., None] > CUTS).sum(-1)
        return np.where(self.there & (self.random.random(self.shape) >= MISSING), scores, np.nan)


def page_cells(values: Any) -> tuple[Any, Any, Any]:
    return np.nansum(values, -1), (~np.isnan(values)).sum(-1).astype(float), np.nansum(values**2, -1)


def by_t(mean: Any, variance: Any, dof: Any, scale: tuple[float, float] | None = None) -> tuple[Any, Any, Any]:
    error = np.sqrt(variance)
    return *t_interval(mean, error, dof, scale), t_test(mean, np.maximum(error, 1e-12), dof)


def by_question(sums: Any, counts: Any, squares: Any) -> tuple[Any, Any, Any]:
    n = counts.sum(-1)
    mean = sums.sum(-1) / n
    return by_t(mean, (squares.sum(-1) - n * mean**2) / (n - 1) / n, n - 1)


def percentiles(sums: Any, counts: Any, squares: Any, random: Any) -> tuple[Any, Any, Any]:
    """The interval; in the place of p, 0 where it excludes zero and 1 elsewhere."""
    pages = counts.shape[-1]
    drawn = random.multinomial(pages, np.full(pages, 1 / pages), RESAMPLES).T.astype(float)
    means = (sums @ drawn) / np.maximum(counts @ drawn, 1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
    return low, high, 1.0 * ((low <= 0) & (high >= 0))


def ours(sums: Any, counts: Any, squares: Any, scale: tuple[float, float] | None = None) -> tuple[Any, Any, Any]:
    mean, variance, dof = cluster_variance(sums, counts, squares)
    variance = np.where(variance < 1e-18, 0.0, variance)
    low, high, p = by_t(mean, variance, dof, scale)
    ends = unvarying_interval(mean, (counts > 0).sum(-1), scale or (-4.0, 4.0))
    return np.where(variance > 0, low, ends[0]), np.where(variance > 0, high, ends[1]), p


def percent(share: Any) -> float:
    return round(100 * float(np.mean(share)), 2)


def one_comparison(random: Any, studies: int) -> Iterator[dict[str, Any]]:
    """Coverage for an arm's mean and for a difference, and how often a difference is found."""
    for pages in PAGES:
        for icc in ICCS:
            for truth in TRUTHS:
                draw = Draw(random, studies, pages, icc)
                base, arm = draw.scores(draw.arm(TRUTHS[0])), draw.scores(draw.arm(truth))
                mean = expected(truth.shift, truth.spread)
                where = {"pages": pages, "icc": icc, "truth": truth.name}
                for what, values, true in (("mean", arm, mean), ("difference", arm - base, mean - expected(0, 1))):
                    cells = page_cells(values)
                    found = {
                        "by question": by_question(*cells),
                        "percentiles": percentiles(*cells, random),
                        "ours": ours(*cells, scale=(1.0, 5.0) if what == "mean" else None),
                    }
                    if what == "difference":
                        found["permutation"] = (None, None, permutation_p(cells[0], cells[1], FLIPS))
                    for name, (low, high, p) in found.items():
                        if low is not None:
                            yield row(name, f"coverage, {what}", percent((low <= true) & (true <= high)), where)
                        if what == "difference":
                            metric = "power" if true > 1e-9 else "false positives"
                            yield row(name, metric, percent(p < 1 - LEVEL), where)


def whole_table(random: Any, studies: int) -> Iterator[dict[str, Any]]:
    """Base, retrieval and three tunes by two judges: 14 differences of a table that are one family."""
    share = np.sqrt(JUDGE_SHARE)
    wide = Truth("wide", same_mean(np.sqrt(JUDGE_SHARE * 1.6**2 + 1 - JUDGE_SHARE), share), 1.6)
    same, better = TRUTHS[0], Truth("better", 0.6)
    for pages in PAGES:
        for name, tunes in (("none differs", (same, same, wide)), ("two tunes are better", (better, better, wide))):
            draw = Draw(random, studies, pages, 0.3)
            arms = [draw.arm(truth) for truth in (same, same, *tunes)]
            real = [False, False, *(truth is better for truth in tunes)]
            pairs = [(i, 0) for i in range(1, 5)] + [(i, 1) for i in range(2, 5)]
            p: dict[str, list[Any]] = {"ours": [], "permutation": []}
            for _ in range(JUDGES):
                scores = [draw.judged(arm) for arm in arms]
                for one, other in pairs:
                    cells = page_cells(scores[one] - scores[other])
                    p["ours"].append(ours(*cells)[2])
                    p["permutation"].append(permutation_p(cells[0], cells[1], FLIPS))
            true = np.array([real[one] for one, _ in pairs] * JUDGES)
            where = {"pages": pages, "icc": 0.3, "truth": name}
            for test, values in p.items():
                each = np.stack(values, -1)
                adjusted = np.array([holm(list(study)) for study in each])
                for label, value in ((f"{test}, no correction", each), (f"{test}, Holm", adjusted)):
                    yield row(label, "family-wise error", percent((value[:, ~true] < 1 - LEVEL).any(-1)), where)
                    if true.any():
                        yield row(label, "power", percent(value[:, true] < 1 - LEVEL), where)


def several_seeds(random: Any, studies: int) -> Iterator[dict[str, Any]]:
    """A run's difference to the base over seeds, whose own effect has a standard deviation."""
    for pages in PAGES:
        for seeds in (2, 3, 5):
            for seed_sd in (0.0, 0.1, 0.3):
                draw = Draw(random, studies, pages, 0.3)
                base = draw.scores(draw.arm(TRUTHS[0]))
                each = np.stack([draw.scores(draw.arm(TRUTHS[2], seed_sd)) for _ in range(seeds)]) - base
                each[:, np.isnan(each).any(0)] = np.nan
                cells = page_cells(each.mean(0))
                mean, by_pages, dof = cluster_variance(*cells)
                of_seeds = np.nansum(each, (-1, -2)) / cells[1].sum(-1)
                by_seeds = of_seeds.var(0, ddof=1) / seeds
                true = expected(0.4, np.sqrt(1 + seed_sd**2)) - expected(0, 1)
                where = {"pages": pages, "icc": 0.3, "truth": "better", "seeds": seeds, "seed_sd": seed_sd}
                for name, (low, high, _) in {
                    "seeds only": by_t(mean, by_seeds, seeds - 1.0),
                    "pages only": by_t(mean, by_pages, dof),
                    "ours": by_t(mean, by_pages + by_seeds, satterthwaite(by_pages, dof, by_seeds, seeds - 1.0)),
                }.items():
                    yield row(name, "coverage, difference", percent((low <= true) & (true <= high)), where)


def rare_events(random: Any, studies: int) -> Iterator[dict[str, Any]]:
    """The share of questions that an arm gets right, where that is next to none."""
    for pages in PAGES:
        for share in (0.02, 0.05, 0.1):
            draw = Draw(random, studies, pages, 0.3)
            right = draw.arm(TRUTHS[0]) > stats.norm.isf(share)
            cells = page_cells(np.where(draw.there, right.astype(float), np.nan))
            where = {"pages": pages, "icc": 0.3, "share": share}
            for name, (low, high, _) in {
                "by question": by_question(*cells),
                "percentiles": percentiles(*cells, random),
                "ours": ours(*cells, scale=(0.0, 1.0)),
            }.items():
                yield row(name, "coverage, share", percent((low <= share) & (share <= high)), where)


def two_judges(random: Any, studies: int) -> Iterator[dict[str, Any]]:
    """Quadratically weighted kappa of two judges of one arm, 5 % of the answers without one judge's score."""

    def kappa_of(draw: Draw) -> Iterator[tuple[Any, Any]]:
        latent = draw.arm(TRUTHS[0])
        scores = np.stack([draw.judged(latent) for _ in range(JUDGES)], -1)
        for study in scores:
            page, place = np.nonzero(~np.isnan(study).any(-1))
            yield study[page, place], page

    [(scores, _)] = kappa_of(Draw(random, 1, 200_000, 0.3))
    true = quadratic_kappa(scores, np.ones((1, len(scores))))[0]
    for pages in PAGES:
        inside: dict[str, list[bool]] = {"percentiles": [], "ours": []}
        for scores, page in kappa_of(Draw(random, studies, pages, 0.3)):
            drawn = random.multinomial(pages, np.full(pages, 1 / pages), RESAMPLES)[:, page]
            low, high = np.nanquantile(quadratic_kappa(scores, drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            inside["percentiles"].append(low <= true <= high)
            _, low, high = by_page(quadratic_kappa, scores, page)
            inside["ours"].append(low is not None and low <= true <= high)
        for name, values in inside.items():
            where = {"pages": pages, "icc": 0.3, "kappa": round(float(true), 2)}
            yield row(name, "coverage, kappa", percent(values), where)


def row(contender: str, metric: str, value: float, where: dict[str, Any]) -> dict[str, Any]:
    mine = contender.startswith("ours")
    cell = {"contender": contender, "ours": mine, "metric": metric, "unit": "%", "values": [value], "median": value}
    return {**cell, **where}


PARTS = {
    "one comparison": one_comparison,
    "whole table": whole_table,
    "several seeds": several_seeds,
    "rare events": rare_events,
    "two judges": two_judges,
}


def table(rows: list[dict[str, Any]], metrics: list[str], keys: list[str]) -> str:
    """Lines by `keys`, columns by metric and contender; a cell is the range over the settings that it sums up."""
    columns = list(dict.fromkeys((r["metric"], r["contender"]) for m in metrics for r in rows if r["metric"] == m))
    lines = [
        "| " + " | ".join([*keys, *(f"{metric}: {name}" for metric, name in columns)]) + " |",
        "|" + "---:|" * (len(keys) + len(columns)),
    ]
    for key in dict.fromkeys(tuple(r[k] for k in keys) for r in rows):
        cells = []
        for column in columns:
            of = [r["median"] for r in rows if (r["metric"], r["contender"], *(r[k] for k in keys)) == (*column, *key)]
            cells.append(f"{min(of):.1f}–{max(of):.1f}" if len(of) > 1 else f"{of[0]:.1f}" if of else "")
        lines.append("| " + " | ".join([*map(str, key), *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies of each setting")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation")
    parser.add_argument("--out", type=Path, default=HERE / "intervals.json", help="file to write")
    args = parser.parse_args()
    random = np.random.default_rng(args.seed)
    began = time.monotonic()
    parts: dict[str, list[dict[str, Any]]] = {}
    for name, part in PARTS.items():
        parts[name] = [{"part": name, **line} for line in part(random, args.studies)]
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    result = {
        "machine": machine(),
        "versions": {"ours": {name: version(name) for name in ("numpy", "scipy")}},
        "command": "python " + " ".join(sys.argv),
        "settings": {
            "studies": args.studies,
            "seed": args.seed,
            "missing": MISSING,
            "truths": [asdict(t) for t in TRUTHS],
        },
        "seconds": round(time.monotonic() - began),
        "rows": [line for lines in parts.values() for line in lines],
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    one = parts["one comparison"]
    print(table(one, ["coverage, mean", "coverage, difference"], ["pages", "icc"]), end="\n\n")
    print(table(one, ["false positives", "power"], ["pages", "icc"]), end="\n\n")
    print(table(parts["whole table"], ["family-wise error", "power"], ["pages", "truth"]), end="\n\n")
    print(table(parts["several seeds"], ["coverage, difference"], ["pages", "seeds", "seed_sd"]), end="\n\n")
    print(table(parts["rare events"], ["coverage, share"], ["pages", "share"]), end="\n\n")
    print(table(parts["two judges"], ["coverage, kappa"], ["pages", "kappa"]))


if __name__ == "__main__":
    main()
