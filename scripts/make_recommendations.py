"""Put each requirement over a list of products, one of which meets it, and split by product.

    python scripts/make_recommendations.py --name X --spec '{…}' --requirements requirements.jsonl
        --products products.jsonl --unusable unusable.jsonl --encoder resources/models/E/lock.json
        --prompt prompts/recommend_product.txt --out results/datasets/X

Writes train.jsonl, val.jsonl, test_trained_pages.jsonl (empty), test_new_pages.jsonl, dropped.jsonl and
funnel.json into --out.
"""

import argparse
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="the data set's id in the configuration")
    parser.add_argument("--spec", required=True, help="the data set's section of the configuration, as JSON")
    parser.add_argument("--requirements", required=True, type=Path, help="requirements as written (JSON Lines)")
    parser.add_argument("--products", required=True, type=Path, help="products with their splits (JSON Lines)")
    parser.add_argument("--unusable", required=True, type=Path, help="unusable replies (JSON Lines)")
    parser.add_argument("--encoder", required=True, type=Path, help="lock of the encoder that finds near neighbours")
    parser.add_argument("--prompt", required=True, type=Path, help="the rows' prompt with {requirement}, {products}")
    parser.add_argument("--out", required=True, type=Path, help="folder of the data set")
    args = parser.parse_args()

    import dataclasses

    from tuneproof.corpus.index import Encoder
    from tuneproof.instructions.draw import assign
    from tuneproof.instructions.funnel import funnel
    from tuneproof.instructions.products import Product
    from tuneproof.instructions.recommend import fault, make_rows, rank
    from tuneproof.instructions.requirements import Requirement, screen
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.records import iter_json_lines, read_rows, write_json, write_rows
    from tuneproof.study import RecommendationSpec

    spec = RecommendationSpec.parse(args.spec)
    template = read_prompt(args.prompt, {"requirement", "products"})
    products, written = read_rows(args.products, Product), read_rows(args.requirements, Requirement)
    screened, dropped = screen(written, products)
    # anew for products of which a requirement is left, else with few products a split would come to nothing; the others
    # stay where they were, so that lists of each split have neighbours to show
    kept = {r.page_id for r in screened}
    parts = assign({p.page_id: p.category for p in products if p.page_id in kept}, spec)
    products = [dataclasses.replace(p, split=parts.get(p.page_id, p.split)) for p in products]
    encoder = Encoder(args.encoder)
    ranked = rank(screened, products, spec.options, lambda texts: encoder.embed(texts, "embed"))
    dropped += [(r.requirement, reason) for r in ranked if (reason := fault(r))]
    write_rows(args.out / "dropped.jsonl", [{**dataclasses.asdict(r), "reason": reason} for r, reason in dropped])
    splits, shares = make_rows([r for r in ranked if not fault(r)], template, spec)
    steps = {
        "products, each name once": len(products),
        "products asked about": len({r.page_id for r in written}),
        "requirements written": len(written),
        "requirements kept": len(written) - len(dropped),
        "rows": sum(map(len, splits.values())),
    }
    unusable = sum(1 for _ in iter_json_lines(args.unusable))
    counts = funnel(args.name, steps, unusable, [reason for _, reason in dropped], splits)
    for split, rows in splits.items():
        write_rows(args.out / f"{split}.jsonl", rows)
    write_json(args.out / "funnel.json", {**counts, "shares": shares})


if __name__ == "__main__":
    main()
