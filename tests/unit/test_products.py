"""Products from a corpus's pages or a catalogue file; what is wrong is named by file, row and key."""

import json
import os
from pathlib import Path

import pytest

from tuneproof.errors import InputError
from tuneproof.instructions.products import Product, cut, distinct, from_catalogue, from_chunks, prose
from tuneproof.records import Chunk

ROW = {"id": "p1", "name": "Sage Lamp", "category": "homedecor", "description": "A lamp with a\n  sage shade."}


def write(path: Path, rows) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))  # JSON is YAML
    return path


@pytest.mark.parametrize("name", ["products.yaml", "products.jsonl"])
def test_a_catalogue_is_read_whatever_else_its_rows_say(tmp_path, name):
    rows = [{**ROW, "price": 9.5, "image": None}, {**ROW, "id": 2, "name": "Oak Lamp"}]
    assert from_catalogue(write(tmp_path / name, rows)) == [
        Product("p1", "Sage Lamp", "homedecor", "A lamp with a sage shade."),
        Product("2", "Oak Lamp", "homedecor", "A lamp with a sage shade."),
    ]


WRONG = [
    ([ROW, {k: v for k, v in ROW.items() if k != "name"}], "2: no 'name', expected id, name, category and description"),
    ([{**ROW, "description": " "}], "1: description: ' ' is wrong, expected a text"),
    ([{**ROW, "category": ["a"]}], "1: category: ['a'] is wrong, expected a text"),
    ([ROW, ROW], "2: id: 'p1' is there twice, expected each once"),
    ([], "no products, expected some"),
]


@pytest.mark.parametrize(("rows", "message"), WRONG)
@pytest.mark.parametrize("name", ["products.yaml", "products.jsonl"])
def test_a_wrong_row_is_named_by_file_row_and_key(tmp_path, name, rows, message):
    with pytest.raises(InputError) as error:
        from_catalogue(write(tmp_path / name, rows))
    assert str(error.value).startswith(str(tmp_path / name))
    assert message in str(error.value)


def test_a_file_that_is_no_catalogue_is_named(tmp_path):
    for text in ("{a: [", "just text", "- 5", "a: !!python/object/apply:os.system ['true']"):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(InputError, match=r"x\.yaml.*expected a"):
            from_catalogue(tmp_path / "x.yaml")
    with pytest.raises(InputError, match="no such file"):
        from_catalogue(tmp_path / "none.yaml")


def chunk(n: int, page: str, text: str, group: str = "products", headings=("Anvil Bare Metal¶",)) -> Chunk:
    return Chunk(f"c{n}", page, f"http://x.test/{page}", group, list(headings), text, 50)


def test_a_page_of_the_group_is_a_product_its_first_prose_the_description():
    chunks = [
        chunk(1, "a", "# Anvil Bare Metal\n\n| Item | Value |\n|---|---|\n| Price | 9 |\n\nAnvil rents **whole"
                      " servers** by the hour.\n\n## Order\n\n```\nanvil order\n```\n\n- Choose a [size](/sizes)."),
        chunk(2, "b", "A metro with four sites, all joined by a ring of fibre.", group="metros"),
        chunk(3, "c", "# Nothing but a heading"),
    ]  # fmt: skip
    [product] = from_chunks(chunks, "products")
    assert product == Product(
        page_id="a",
        name="Anvil Bare Metal",
        category="products",
        description="Anvil rents whole servers by the hour. Choose a size.",
        chunk_id="c1",
        url="http://x.test/a",
    )
    with pytest.raises(InputError, match="group: 'goods' has no chunk, expected one of: metros, products"):
        from_chunks(chunks, "goods")


def test_a_long_description_ends_with_a_sentence():
    assert cut("One two. Three four. Five six seven.", 24) == "One two. Three four."
    assert cut("One of 2.5 metres is short", 14) == "One of 2.5"
    assert prose("## Heading\n1. Do this.\n> Quoted `code`.") == "> Quoted code."


def test_a_name_that_two_products_have_is_kept_once():
    lamps = [Product(str(n), name, "c", "d") for n, name in enumerate(["Sage Lamp", "Oak Lamp", "SAGE lamp"])]
    assert distinct(lamps) == (lamps[:2], lamps[2:])


def test_the_catalogue_of_the_test_data_is_read():
    folder = os.environ.get("TUNEPROOF_DATA")
    if not folder:
        pytest.skip("TUNEPROOF_DATA is not set: it names the folder of the test data")
    products = from_catalogue(Path(folder) / "products" / "products.yaml")
    kept, copies = distinct(products)
    assert (len(products), len(kept), len(copies)) == (2465, 2367, 98)
    assert max(len(p.description) for p in products) <= 400
