"""How much of a site's menus and footers is left in its pages, and how much of their main text is kept.

The labels are the sites' own: what stands inside the element that their template puts the text into is main text, all
other text is boilerplate. The extractor is not told which element that is.
"""

import os
import re
import tarfile
from pathlib import Path

import pytest
from lxml import html

from tuneproof.corpus.extract import Document, extract_pages
from tuneproof.study import CorpusSpec

SHORTEST = 3  # words of a line that says something
IGNORED = {"script", "style", "title"}


def words(text):
    return " ".join(re.findall(r"\w+", text.lower()))


def labelled(body, main):
    """The lines of a page, as their words: (main text, boilerplate)."""
    tree = html.fromstring(body)
    inside = set(tree.xpath(f"{main}//*")) | set(tree.xpath(main))
    lines = {True: set(), False: set()}
    for element in tree.iter("*"):
        own = words(" ".join([element.text or "", *(child.tail or "" for child in element)]))
        if element.tag not in IGNORED and len(element) == 0 and len(own.split()) >= SHORTEST:
            lines[element in inside].add(own)
    said = " | ".join(lines[True])
    return lines[True], {line for line in lines[False] if line not in said}


def judged(files, root, main):
    """Shares over a site's pages: (main lines kept, boilerplate lines left), and how many lines there are of both."""
    documents = [Document(str(f.relative_to(root)), f.read_bytes(), "", "") for f in files]
    spec = CorpusSpec.model_validate({"folder": {"path": "."}, "encoder": "e", "near_duplicate": 1})
    texts = {page.url: words(page.text) for page in extract_pages(documents, spec)[0]}
    kept = left = mains = boilerplates = 0
    for document in documents:
        main_lines, boilerplate = labelled(document.html, main)
        if (text := texts.get(document.url)) is None:  # a copy
            continue
        mains, boilerplates = mains + len(main_lines), boilerplates + len(boilerplate)
        kept += sum(line in text for line in main_lines)
        left += sum(line in text for line in boilerplate)
    return kept / mains, left / boilerplates, mains, boilerplates


def report(capsys, name, figures):
    kept, left, mains, boilerplates = figures
    with capsys.disabled():
        print(
            f"\n{name}: {kept:.1%} of {mains} lines of main text kept, {left:.1%} of {boilerplates} of boilerplate left"
        )
    return kept, left


def test_the_sample_site(haldrune, capsys):
    site, facts = haldrune
    files = [
        site / (path.lstrip("/") + ("index.html" if path.endswith("/") else "")) for path in {f["path"] for f in facts}
    ]
    kept, left = report(capsys, "sample site", judged(sorted(files), site, "//main"))
    assert kept == 1 and left == 0


def test_a_manual_that_nobody_here_wrote(tmp_path, capsys):
    archive = Path(os.environ.get("TUNEPROOF_DATA", "")) / "corpora/ironic-doc/ironic-doc.tar.gz"
    if not archive.exists():
        pytest.skip("TUNEPROOF_DATA does not name the folder with corpora/")
    with tarfile.open(archive) as stream:
        stream.extractall(tmp_path, filter="data")
    files = sorted(f for f in tmp_path.rglob("*.html") if b'class="docs-body"' in f.read_bytes())
    kept, left = report(capsys, "ironic-doc", judged(files, tmp_path, "//*[@class='docs-body']"))
    # lost are lists of nothing but links; left are the two lines about the licence, on every page
    assert kept > 0.93 and left < 0.08
