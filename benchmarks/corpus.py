"""Time what makes a corpus, from archive to index, at growing sizes, beside plain trafilatura: `make bench-corpus`.

    python benchmarks/corpus.py [--sizes 1000 10000] [--rounds 3]

The corpus is made by templates: 20 kB of HTML a page, with menu, cookie notice, sidebar and footer around a text of its
own; one in twenty is a copy of another with one sentence changed, one in thirty is in German. Each stage is its rule's
script with two processes, their start included. Plain trafilatura is `extract(html)` in two processes over the same
archive, without titles, groups or copies. Memory is the highest sum of what a stage's processes hold (PSS).
Chunks are embedded for --embedded of them only; to write an index, vectors at random stand in for all.
"""

import argparse
import importlib.metadata
import importlib.util
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import psutil
from llm import HERE, LOCAL, machine

ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "scripts"))
ENCODER = ROOT / "resources/models/all-minilm-l6-v2/lock.json"
PROCESSES = 2
COMPARED = 10_000  # pages, up to which stages run several times
CHUNKS = {"max_tokens": 256}
METRICS = {"pages_per_s": "1/s", "processor_ms_per_page": "ms", "peak_mb": "MB"}

ENGLISH = [
    "The {noun} of {name} was {verb} in {year} and has held {number} {unit} ever since.",
    "Engineers at {name} read the {noun} every {small} hours, and write the figure into the log of {other}.",
    "If the {noun} falls below {number} {unit}, the team of {other} is called within {small} minutes.",
    "Customers may ask for {number} more {unit}, which is {verb} for them at no charge after {year}.",
    "Before {year} there was no {noun} here; the old one was {verb} from {other} and stood beside the gate.",
    "Nobody but the staff of {name} may open the {noun}, whatever the reason that is given at {other}.",
]
GERMAN = [
    "Die Anlage von {name} wurde im Jahr {year} gebaut und liefert seitdem {number} Einheiten in jeder Stunde.",
    "Wenn der Wert unter {number} fällt, werden die Leute aus {other} innerhalb von {small} Minuten gerufen.",
    "Niemand außer den Mitarbeitern von {name} darf die Tür öffnen, gleich welcher Grund in {other} genannt wird.",
]
WORDS = {
    "noun": "cooling loop, battery string, patch panel, fuel store, raised floor, meter, mantrap, riser, pump".split(
        ", "
    ),
    "verb": "built, tested, replaced, brought, rented, repaired, counted, sealed, doubled".split(", "),
    "unit": "kilowatts, cabinets, litres, visitors, ports, metres, hours, fans".split(", "),
}
SYLLABLES = "bar cor dun el fen gar hal ior kel lor mar nev or pel quin ros sal tor ul ven wick yar zel".split()

PAGE = """<!DOCTYPE html><html lang="en"><head><title>{title} | Corpus</title><link rel="canonical" href="{url}">
<script>window.config = {{"page": "{title}", "items": [1, 2, 3]}};</script><style>.menu {{ color: #333 }}</style></head>
<body><div class="cookie-banner"><p>This site uses cookies to make your visit better. Read our privacy policy.</p>
<button>Accept all</button></div><header><a href="/">Corpus</a><nav><ul>{menu}</ul></nav></header>
<main><article><h1>{title}</h1>{body}</article></main>
<aside class="sidebar"><h3>Related pages</h3><ul>{menu}</ul></aside>
<footer><p>Copyright 2025 Corpus Ltd. All rights reserved.</p><p>Terms of use · Privacy · Imprint</p></footer>
</body></html>
"""
ITEM = """<li class="menu__item menu__item--level-{level}" id="menu-item-{n}">
<a class="menu__link" href="/section/{n}.html" title="Go to section {n}" data-track="menu-{n}">
<span class="menu__label">Section number {n}</span></a></li>"""
MENU = "".join(ITEM.format(n=n, level=n % 3) for n in range(40))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000], help="pages of each corpus")
    parser.add_argument("--rounds", type=int, default=3, help=f"times that every stage runs, up to {COMPARED:,} pages")
    parser.add_argument("--embedded", type=int, default=512, help="chunks that are embedded at each size")
    parser.add_argument("--plain", type=Path, help="(for itself) run plain trafilatura over an archive")
    parser.add_argument("--random-index", type=int, help="(for itself) write an index of so many vectors")
    parser.add_argument("--out", type=Path, default=HERE / "corpus.json", help="file to write")
    args = parser.parse_args()
    if args.plain:
        return plain(args.plain)
    if args.random_index:
        return random_index(args.random_index, args.out)
    LOCAL.mkdir(exist_ok=True)
    rows: list[dict[str, object]] = []
    languages = ["en"] if importlib.util.find_spec("py3langid") else []
    for size in args.sizes:
        with tempfile.TemporaryDirectory(dir=LOCAL) as folder:
            measured = measure(Path(folder), size, languages, args.rounds if size <= COMPARED else 1, args.embedded)
        rows += [
            row(stage, size, metric, [values[metric] for values in runs])
            for stage, runs in measured.items()
            for metric in METRICS
        ]
        print(table(rows, [size]), flush=True)
    packages = ("trafilatura", "datasketch", "py3langid", "semantic-text-splitter", "faiss-cpu", "warcio")
    result = {
        "machine": machine(),
        "versions": {name: importlib.metadata.version(name) for name in packages if name != "py3langid" or languages},
        "command": "python " + " ".join(sys.argv),
        "settings": {"sizes": args.sizes, "processes": PROCESSES, "languages": languages, "embedded": args.embedded},
        "rows": rows,
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(table(rows, args.sizes))


def measure(
    folder: Path, size: int, languages: list[str], rounds: int, embedded: int
) -> dict[str, list[dict[str, float]]]:
    """Run every stage; return stage -> what each round measured."""
    archive, pages, chunks = folder / "crawl.warc.gz", folder / "pages.jsonl", folder / "chunks.jsonl"
    began = time.monotonic()
    write_archive(archive, size)
    print(
        f"{size} pages, {archive.stat().st_size / 1e6:.0f} MB, made in {time.monotonic() - began:.0f} s",
        file=sys.stderr,
    )
    script = {name: [sys.executable, str(ROOT / "scripts" / f"{name}.py")] for name in ("extract_pages", "chunk_pages")}
    files = ["--archive", archive, "--out", pages, "--counts", folder / "pages.json", "--processes", str(PROCESSES)]
    extract = [*script["extract_pages"], *files, "--spec", json.dumps({})]
    filtered = [*script["extract_pages"], *files, "--spec", json.dumps({"languages": languages})]
    cut = [*script["chunk_pages"], "--pages", pages, "--encoder", ENCODER, "--spec", json.dumps(CHUNKS)]
    cut += ["--out", chunks, "--processes", str(PROCESSES)]
    itself = [sys.executable, str(HERE / "corpus.py"), "--out", folder / "chunks.faiss"]
    stages = {"plain trafilatura": [*itself, "--plain", archive], "extract_pages": extract}
    if languages and size <= COMPARED:
        stages["extract_pages, languages: [en]"] = filtered
    found: dict[str, list[dict[str, float]]] = {}
    for turn in range(rounds):
        for stage, command in stages.items():
            found.setdefault(stage, []).append(run(command, size))
            print(f"round {turn + 1}: {stage}: {found[stage][-1]}", file=sys.stderr, flush=True)
        found.setdefault("chunk_pages", []).append(run(cut, size))
    with chunks.open() as stream:
        count = sum(1 for _ in stream)
    with chunks.open() as stream:
        (folder / "some.jsonl").write_text("".join(islice(stream, embedded)))
    embed = [sys.executable, ROOT / "scripts/index_chunks.py", "--chunks", folder / "some.jsonl", "--encoder", ENCODER]
    found[f"index_chunks, {embedded} chunks"] = [run([*embed, "--out", folder / "some.faiss"], embedded)]
    found["write an index of all chunks"] = [run([*itself, "--random-index", str(count)], size)]
    print(json.loads((folder / "pages.json").read_text()), f"{count} chunks", file=sys.stderr, flush=True)
    return found


def run(command: list[object], items: int) -> dict[str, float]:
    """Run a command; its memory is the sum of what its processes hold, at its highest."""
    began, peak, processor = time.monotonic(), 0, {}
    with tempfile.TemporaryFile("w+") as log:
        process = psutil.Popen([str(part) for part in command], stderr=log, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            held = 0
            for one in [process, *children(process)]:
                try:
                    held += one.memory_full_info().pss
                    times = one.cpu_times()
                    processor[one.pid] = times.user + times.system
                except psutil.Error:  # it has ended
                    pass
            peak = max(peak, held)
            time.sleep(0.1)
        seconds = time.monotonic() - began
        if process.returncode:
            log.seek(0)
            sys.exit(f"{command[1]}: {log.read()[-3000:]}")
    return {
        "pages_per_s": items / seconds,
        "processor_ms_per_page": 1000 * sum(processor.values()) / items,
        "peak_mb": peak / 1e6,
    }


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def write_archive(archive: Path, size: int) -> None:
    """Write a crawl of `size` pages as a WARC; the same pages each time."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    with archive.open("wb") as stream:
        writer = WARCWriter(stream, gzip=True)
        for number, html in enumerate(islice(documents(), size)):
            headers = StatusAndHeaders("200", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
            url = f"http://corpus.test/{number % 50}/{number}.html"
            record = writer.create_warc_record(url, "response", payload=io.BytesIO(html.encode()), http_headers=headers)
            writer.write_record(record)


def documents() -> Iterator[str]:
    """Yield pages without end: one in thirty in German, one in twenty a copy with one sentence changed."""
    chance = random.Random(1)
    sentences: list[str] = []
    for number in range(sys.maxsize):
        if number % 20 != 19:
            templates = GERMAN if number % 30 == 7 else ENGLISH
            sentences = [sentence(chance, templates) for _ in range(chance.randrange(15, 45))]
        else:
            sentences = [*sentences[:-1], sentence(chance, ENGLISH)]
        parts = [f"<p>{' '.join(sentences[i : i + 5])}</p>" for i in range(0, len(sentences), 5)]
        parts[1:1] = [f"<h2>{name(chance)}</h2>", f"<ul><li>{sentence(chance, ENGLISH)}</li></ul>"]
        url = f"http://corpus.test/{number % 50}/{number}.html"
        yield PAGE.format(title=name(chance), url=url, menu=MENU, body="".join(parts))


def name(chance: random.Random) -> str:
    return "".join(chance.choices(SYLLABLES, k=3)).capitalize()


def sentence(chance: random.Random, templates: list[str]) -> str:
    filled = {key: chance.choice(words) for key, words in WORDS.items()}
    numbers = {
        "year": chance.randrange(1950, 2025),
        "number": chance.randrange(10, 10_000),
        "small": chance.randrange(2, 60),
    }
    return chance.choice(templates).format(name=name(chance), other=name(chance), **filled, **numbers)


def plain(archive: Path) -> None:
    """What one would write without this repository: trafilatura over an archive, in two processes."""
    from multiprocessing import Pool

    import trafilatura
    from warcio.archiveiterator import ArchiveIterator

    with archive.open("rb") as stream, Pool(PROCESSES) as pool:
        bodies = (record.content_stream().read() for record in ArchiveIterator(stream) if record.rec_type == "response")
        print(sum(text is not None for text in pool.imap(trafilatura.extract, bodies, chunksize=64)))


def random_index(vectors: int, out: Path) -> None:
    import numpy as np

    from tuneproof.corpus.index import write_index
    from tuneproof.records import atomic_write

    chance = np.random.default_rng(1)
    blocks = (chance.random((min(8192, vectors - i), 384), dtype="float32") for i in range(0, vectors, 8192))
    with atomic_write(out, "wb") as stream:
        write_index(stream, blocks)


def row(stage: str, size: int, metric: str, values: list[float]) -> dict[str, object]:
    return {
        "contender": stage,
        "ours": not stage.startswith("plain"),
        "pages": size,
        "metric": metric,
        "unit": METRICS[metric],
        "values": [round(value, 3) for value in values],
        "median": round(statistics.median(values), 3),
    }


def table(rows: list[dict[str, object]], sizes: list[int]) -> str:
    lines = ["| stage | pages | a second | processor ms each | peak MB |", "|---|---:|---:|---:|---:|"]
    for size in sizes:
        medians = {(r["contender"], r["metric"]): r["median"] for r in rows if r["pages"] == size}
        for stage in dict.fromkeys(stage for stage, _ in medians):
            figures = " | ".join(f"{medians[stage, metric]:,.1f}" for metric in METRICS)
            lines.append(f"| {stage} | {size:,} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = str(PROCESSES)
    main()
