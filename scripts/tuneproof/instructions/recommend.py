"""Product recommendation: a requirement, a list of products of which one is right by construction, and its name.

The others in the list are the right one's nearest neighbours. Two promises hold for every row:

    a training list shows no product of validation or test, nor a twin of one that is asked for there, so that a test
    is about products never seen;
    in each split the right one stands equally often at each place of the list (where the rows divide, else ± 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tuneproof.errors import InputError
from tuneproof.instructions.draw import in_turns, quotas, take
from tuneproof.instructions.products import Product
from tuneproof.instructions.requirements import Requirement
from tuneproof.llm.prompts import fill
from tuneproof.records import Example, content_id
from tuneproof.study import RecommendationSpec, Split

# A neighbour that is nearer than this would be as right. Seen in a catalogue of 501 bags, shoes and gadgets: above 0.85
# (15 % of the products have one) they are the same thing in another colour or in other words.
TWIN = 0.85
Embed = Callable[[list[str]], Any]


@dataclass(frozen=True)
class Ranked:
    """A requirement with its product, the products to stand beside it, and the product's rank in that list.

    Rank 1: no other of the list is nearer to the requirement. `trained`: the product is held out, and training holds it
    in another colour or in other words.
    """

    requirement: Requirement
    right: Product
    others: list[Product]
    rank: int
    trained: bool = False


def fault(row: Ranked) -> str | None:
    """Return why a row cannot be kept, or None."""
    if row.trained:
        return "training has a twin of its product"
    return None if clear(row) else "other products of its list are nearer"


def clear(row: Ranked) -> bool:
    """Tell whether the right product is in the nearer half of its list (2 of 5, 1 of 3); else another may fit too."""
    return row.rank <= max(1, (1 + len(row.others)) // 2)


def rank(requirements: list[Requirement], products: list[Product], options: int, embed: Embed) -> list[Ranked]:
    """Find the list of each requirement, and the right one's rank in it; `embed` maps texts to vectors of length 1."""
    place = {product.page_id: i for i, product in enumerate(products)}
    described = embed([product.text for product in products])
    needed = embed([requirement.text for requirement in requirements])
    beside: dict[int, list[Product]] = {}
    train = [i for i, product in enumerate(products) if product.split == "train"]
    ranked = []
    for requirement, vector in zip(requirements, needed, strict=True):
        i = place[requirement.page_id]
        if i not in beside:
            beside[i] = neighbours(i, products, described @ described[i], options - 1)
        near = described[[place[other.page_id] for other in beside[i]]] @ vector
        nearer = int((near >= described[i] @ vector).sum())
        trained = products[i].split != "train" and bool((described[train] @ described[i] >= TWIN).any())
        ranked.append(Ranked(requirement, products[i], beside[i], 1 + nearer, trained))
    return ranked


def make_rows(
    ranked: list[Ranked], template: str, spec: RecommendationSpec
) -> tuple[dict[Split, list[Example]], dict[str, float]]:
    """Return the rows of each split, and shares over val and test; raise InputError where a split is empty.

    The shares say how often the right product is found without reading, and how many products of the lists are
    borrowed from training.
    """
    turns = in_turns(ranked, lambda r: r.right.page_id)
    taken = take(turns, lambda r: r.right.split, quotas(spec))
    splits: dict[Split, list[Example]] = {"train": [], "val": [], "test_trained_pages": [], "test_new_pages": []}
    for split in quotas(spec):
        rows = sorted((r for r in taken if r.right.split == split), key=lambda r: content_id("deal", r.requirement.id))
        if not rows:
            raise InputError(f"split {split} is empty: none of its requirements can be kept; ask for more rows")
        splits[split] = [_example(row, n % spec.options, template) for n, row in enumerate(rows)]
    held = [r for r in taken if r.right.split != "train"]
    borrowed = sum(other.split == "train" for r in held for other in r.others)
    shares = {
        "right by guessing": 1 / spec.options,
        "right by taking the nearest by embedding": sum(r.rank == 1 for r in held) / len(held),
        "products borrowed from training": borrowed / (len(held) * spec.options),
    }
    return splits, shares


def neighbours(i: int, products: list[Product], cosines: Any, n: int) -> list[Product]:
    """Return `n` products to stand beside products[i], of its own split and category first, then nearest first.

    Only where its own split has too few do lists of validation and test borrow from training; those of training never
    borrow. Raises InputError where there are not enough.
    """
    right = products[i]
    allowed = [
        j for j, other in enumerate(products) if j != i and other.split in (right.split, "train") and cosines[j] < TWIN
    ]
    if len(allowed) < n:
        raise InputError(
            f"options: {n + 1} products a list, and {right.name!r} of split {right.split} has {len(allowed)} others to "
            "stand beside it; expected fewer options, or more products"
        )
    order = sorted(
        allowed,
        key=lambda j: (products[j].split != right.split, products[j].category != right.category, -float(cosines[j])),
    )
    return [products[j] for j in order[:n]]


def deal(right: Product, others: list[Product], position: int, seed: str) -> list[Product]:
    """Return the list with the right product at a position, and the others in an order that the seed decides."""
    listed = sorted(others, key=lambda other: content_id("deal", seed, other.page_id))
    listed.insert(position, right)
    return listed


def _example(row: Ranked, position: int, template: str) -> Example:
    right, listed = row.right, deal(row.right, row.others, position, row.requirement.id)
    prompt = fill(template, requirement=row.requirement.text, products="\n\n".join(p.text for p in listed))
    return Example(
        id=content_id(row.requirement.id, prompt, right.split),
        pair_id=row.requirement.id,
        chunk_id=right.chunk_id,
        page_id=right.page_id,
        url=right.url,
        group=right.category,
        split=right.split,
        question=prompt,
        answer=right.name,
        messages=[{"role": "user", "content": prompt}, {"role": "assistant", "content": right.name}],
    )
