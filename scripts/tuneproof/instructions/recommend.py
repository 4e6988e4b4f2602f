"""Product recommendation: a requirement, a list of products of which one is right by construction, and its name.

The others in the list are the right one's nearest neighbours. Two promises hold for every row:

    a training list shows no product of validation or test, so that a test is about products never seen;
    in each split the right one stands equally often at each place of the list (where the rows divide, else ± 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tuneproof.errors import InputError
from tuneproof.instructions.draw import in_turns, quotas, take
from tuneproof.instructions.products import Product
from tuneproof.instructions.requirements import Requirement
from tuneproof.records import Example, content_id
from tuneproof.study import RecommendationSpec, Split

# A neighbour that is nearer than this says the same as the product: it would be as right.
TWIN = 0.9
# The right product must be among so many of its list that are nearest to the requirement; else another may fit as well.
NEAREST = 2

Embed = Callable[[list[str]], Any]


def recommend(
    requirements: list[Requirement],
    products: list[Product],
    template: str,
    spec: RecommendationSpec,
    embed: Embed,
) -> tuple[dict[Split, list[Example]], list[tuple[Requirement, str]], dict[str, float]]:
    """Return the rows of each split, the dropped requirements with their reason, and shares over val and test.

    `embed` maps texts to vectors of length 1. The shares say how often the right product is found without reading, and
    how many products of the lists are borrowed from training.
    """
    place = {product.page_id: i for i, product in enumerate(products)}
    described = embed([product.text for product in products])
    needed = embed([requirement.text for requirement in requirements])
    options: dict[str, list[Product]] = {}
    kept: list[Requirement] = []
    dropped: list[tuple[Requirement, str]] = []
    ranks: dict[str, int] = {}
    for requirement, vector in zip(requirements, needed, strict=True):
        i = place[requirement.page_id]
        if requirement.page_id not in options:
            options[requirement.page_id] = neighbours(i, products, described @ described[i], spec.options - 1)
        near = described[[place[other.page_id] for other in options[requirement.page_id]]] @ vector
        ranks[requirement.id] = 1 + int((near >= described[i] @ vector).sum())
        if ranks[requirement.id] <= NEAREST:
            kept.append(requirement)
        else:
            dropped.append((requirement, "other products of its list are nearer"))
    turns = in_turns(kept, lambda r: r.page_id)
    taken = take(turns, lambda r: products[place[r.page_id]].split, quotas(spec))
    splits: dict[Split, list[Example]] = {"train": [], "val": [], "test_trained_pages": [], "test_new_pages": []}
    for split in quotas(spec):
        rows = [r for r in taken if products[place[r.page_id]].split == split]
        if not rows:
            raise InputError(f"split {split} is empty: none of its requirements can be kept; ask for more rows")
        for n, requirement in enumerate(sorted(rows, key=lambda r: content_id("deal", r.id))):
            right = products[place[requirement.page_id]]
            listed = deal(right, options[right.page_id], n % spec.options, requirement.id)
            splits[split].append(_example(requirement, right, listed, template, split))
    held = [r for r in taken if products[place[r.page_id]].split != "train"]
    borrowed = sum(other.split == "train" for r in held for other in options[r.page_id])
    shares = {
        "right by guessing": 1 / spec.options,
        "right by taking the nearest by embedding": sum(ranks[r.id] == 1 for r in held) / len(held),
        "products borrowed from training": borrowed / (len(held) * spec.options),
    }
    return splits, dropped, shares


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


def _example(requirement: Requirement, right: Product, listed: list[Product], template: str, split: Split) -> Example:
    prompt = template.format(requirement=requirement.text, products="\n\n".join(product.text for product in listed))
    return Example(
        id=content_id(requirement.id, prompt, split),
        pair_id=requirement.id,
        chunk_id=right.chunk_id,
        page_id=right.page_id,
        url=right.url,
        group=right.category,
        split=split,
        question=prompt,
        answer=right.name,
        messages=[{"role": "user", "content": prompt}, {"role": "assistant", "content": right.name}],
    )
