"""Render an invented company's website from a table of invented facts.

No model has seen these facts, and we know on which page each of them stands. That gives retrieval and fact
recall a ground truth without a judge: a found page is the right one or not, an answer contains the value or
does not.

The site also has what makes real sites awkward, so that a crawler can be tested on it: a part closed by
robots.txt, a copy of an article, a redirect, a dead link. The output depends on the source folder alone, byte
for byte.
"""

import hashlib
import re
import shutil
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import yaml

# fmt: off
MONTHS = ("January", "February", "March", "April", "May", "June",
          "July", "August", "September", "October", "November", "December")
# fmt: on

# Spellings of a unit that count as the same value: first the table's, then what models write.
UNITS = (
    ("MW", "megawatts"),
    ("kW", "kilowatts"),
    ("GWh", "gigawatt-hours", "gigawatt hours"),
    ("km", "kilometres", "kilometers"),
    ("mm", "millimetres", "millimeters"),
    ("m", "metres", "meters"),
    ("kg", "kilograms", "kilogrammes"),
    ("ms", "milliseconds"),
    ("milliseconds", "ms"),
    ("dB", "decibels"),
    ("GB", "gigabytes"),
    ("TB", "terabytes"),
    ("°C", "degrees Celsius", "C"),
    ("Mbit/s", "Mbps", "Mb/s"),
    ("Gbit/s", "Gbps", "Gb/s"),
    ("Tbit/s", "Tbps", "Tb/s"),
    ("square metres", "m²", "m2", "square meters"),
    ("cubic metres", "m³", "m3", "cubic meters"),
    ("litres per minute", "liters per minute", "l/min", "L/min"),
    ("requests per minute", "requests/minute"),
    ("rack units", "U", "RU"),
    ("percent", "%", "per cent"),
    ("hours", "h"),
    ("minutes", "min"),
)


@dataclass(frozen=True)
class SitePage:
    """One row of the table: a page, the entity it is about, and its facts as attribute -> value."""

    path: str
    title: str
    subject: str
    group: str
    template: str
    position: int  # among the pages of the same template; chooses the wording
    facts: dict[str, str]
    city: str = ""
    code: str = ""


def render(source: Path, site: Path) -> list[dict[str, Any]]:
    """Write the website of the table `source`/facts.yaml under `site` and return its facts.

    A fact is {id, path, subject, attribute, value, aliases}; aliases are other spellings of the value. Raises
    ValueError, naming page and fact, when a value is vague or repeated, or does not stand on its page.
    """
    table = yaml.safe_load((source / "facts.yaml").read_text(encoding="utf-8"))
    pages = read_pages(table)
    check_values(pages)
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(source / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    facts: list[dict[str, Any]] = []
    for page in pages:
        html = page_html(env, table, pages, page)
        write(site, page.path, html)
        facts += page_facts(page, main_text(html))
    write_oddities(env, table, pages, site)
    write_crawler_files(table, pages, site)
    shutil.copyfile(source / "templates" / "style.css", site / "style.css")
    return facts


def read_pages(table: dict[str, Any]) -> list[SitePage]:
    """The public pages of the table, in its order."""
    pages: list[SitePage] = []
    used: dict[str, int] = {}
    for group, section in table["groups"].items():
        for path, row in section["pages"].items():
            template = row.get("template") or file_of(path) + ".j2"
            facts = {key.replace("_", " "): value for key, value in row["facts"].items()}
            pages.append(
                SitePage(
                    path,
                    row["title"],
                    row["subject"],
                    group,
                    template,
                    used.get(template, 0),
                    facts,
                    row.get("city", ""),
                    row.get("code", ""),
                )
            )
            used[template] = used.get(template, 0) + 1
    return pages


def check_values(pages: list[SitePage]) -> None:
    """Refuse values by which an answer could not be told right or wrong."""
    seen: dict[str, str] = {}
    asked: set[tuple[str, str]] = set()
    for page in pages:
        for attribute, value in page.facts.items():
            where = f"{page.path}: {attribute}"
            if not isinstance(value, str) or len(value) < 4:
                raise ValueError(f"{where}: {value!r} is too vague; write a string of 4 characters or more")
            if value in seen:
                raise ValueError(f"{where}: {value!r} is already the value of {seen[value]}")
            if (page.subject, attribute) in asked:
                raise ValueError(f"{where}: {page.subject!r} has this attribute on another page too")
            if any(value in str(other) for other in page.facts.values() if other != value):
                raise ValueError(f"{where}: {value!r} is part of another value on the page")
            seen[value] = where
            asked.add((page.subject, attribute))


def page_html(
    env: jinja2.Environment, table: dict[str, Any], pages: list[SitePage], page: SitePage, copy: bool = False
) -> str:
    """One public page. A copy names no canonical address, so that only its text gives it away."""
    # attributes are spoken of with spaces, but templates need names without
    facts = {attribute.replace(" ", "_"): value for attribute, value in page.facts.items()}
    siblings = [other for other in pages if other.group == page.group and other.path != page.path]
    links = [
        {"path": path, "title": row["title"]}
        for path, row in table["internal"].items()
        if row["linked_from"] == page.path
    ]
    group = table["groups"][page.group]
    return env.get_template(page.template).render(
        **frame(table),
        page=page,
        s=page.subject,
        f=facts,
        n=page.position,
        siblings=siblings,
        footer_links=[] if copy else links,
        canonical="" if copy else f"http://{table['host']}{page.path}",
        group_label=group["label"],
        group_first=first_page(group),
    )


def first_page(section: dict[str, Any]) -> str:
    """The page that stands for a group in the navigation; the front page stands for the whole site."""
    return next(str(path) for path in section["pages"] if path != "/")


def frame(table: dict[str, Any]) -> dict[str, Any]:
    """What header and navigation need on every page."""
    return {"nav": [{"label": section["label"], "first": first_page(section)} for section in table["groups"].values()]}


def write_oddities(env: jinja2.Environment, table: dict[str, Any], pages: list[SitePage], site: Path) -> None:
    """The pages a crawler must not take for new content: copies, the closed part, the error page."""
    by_path = {page.path: page for page in pages}
    for path, original in table["copies"].items():
        write(site, path, page_html(env, table, pages, by_path[original], copy=True))
    titles = {path: row["title"] for path, row in table["internal"].items()} | {"/404.html": "Not found"}
    for path, title in titles.items():
        html = env.get_template(file_of(path) + ".j2").render(
            **frame(table),
            page={"title": title},
            siblings=[],
            footer_links=[],
            canonical="",
            group_label="",
        )
        write(site, path, html)


def write_crawler_files(table: dict[str, Any], pages: list[SitePage], site: Path) -> None:
    """robots.txt, sitemap.xml and _redirects (one `from to status` a line, as Netlify reads it)."""
    root = f"http://{table['host']}"
    write(site, "/robots.txt", f"User-agent: *\nDisallow: /internal/\n\nSitemap: {root}/sitemap.xml\n")
    locations = "".join(f"  <url><loc>{root}{page.path}</loc></url>\n" for page in pages)
    write(
        site,
        "/sitemap.xml",
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{locations}</urlset>\n',
    )
    write(site, "/_redirects", "".join(f"{old} {new} 301\n" for old, new in table["redirects"].items()))


def file_of(path: str) -> str:
    """The file behind a page's path: `/` is index.html."""
    return (path + "index.html" if path.endswith("/") else path).lstrip("/")


def write(site: Path, path: str, text: str) -> None:
    """Write one file of the site; newlines stay as they are on every platform."""
    target = site / file_of(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(text.encode("utf-8"))


class _MainText(HTMLParser):
    """Collects the text inside <main>. The templates put neither scripts nor styles there."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.inside = False
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = self.inside or tag == "main"

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "main"
        if tag in ("p", "li", "td", "th", "h1", "h2", "h3"):
            self.parts.append(" ")  # two cells are two words

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.parts.append(data)


def main_text(html: str) -> str:
    """The visible text inside <main>, each run of white space as one space."""
    parser = _MainText()
    parser.feed(html)
    parser.close()
    return " ".join("".join(parser.parts).split())


def page_facts(page: SitePage, text: str) -> list[dict[str, Any]]:
    """The fact rows of one page; ValueError for a value that is no whole word of the text."""
    rows = []
    for attribute, value in page.facts.items():
        if not re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text):
            raise ValueError(f"{page.path}: the {attribute} of {page.subject}, {value!r}, is not in the text")
        rows.append(
            {
                "id": fact_id(page.path, attribute, value),
                "path": page.path,
                "subject": page.subject,
                "attribute": attribute,
                "value": value,
                "aliases": aliases(value),
            }
        )
    return rows


def fact_id(path: str, attribute: str, value: str) -> str:
    """16 hex digits that change when the fact does."""
    return hashlib.sha256(f"{path}|{attribute}|{value}".encode()).hexdigest()[:16]


def aliases(value: str) -> list[str]:
    """Other spellings of a value that count as right, sorted; compare them without regard to case."""
    forms = {value}
    # each rule is applied to what the earlier ones gave: "1,475 kg" -> "1475 kg" -> "1475 kilograms"
    for rule in (_plain_letters, _thousands, _dates, _money, _units, _percent, _shorter, _pairs):
        forms |= {spelling for form in sorted(forms) for spelling in rule(form)}
    return sorted(forms - {value})


def _plain_letters(form: str) -> Iterator[str]:
    """Brückmoor -> Bruckmoor; typographic characters that are no letters (°, ²) stay."""
    plain = "".join(c for c in unicodedata.normalize("NFD", form) if not unicodedata.combining(c))
    yield plain
    yield plain.replace("å", "a").replace("ø", "o")


def _thousands(form: str) -> Iterator[str]:
    yield re.sub(r"(?<=\d),(?=\d{3})", "", form)


def _dates(form: str) -> Iterator[str]:
    names = "|".join(MONTHS)
    if found := re.fullmatch(rf"(\d+) ({names}) (\d{{4}})", form):
        day, month, year = int(found[1]), found[2], found[3]
        nth = f"{day}{'th' if 10 < day < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"
        yield from (
            f"{day} {month[:3]} {year}",
            f"{nth} {month} {year}",
            f"{nth} of {month} {year}",
            f"{month} {day}, {year}",
            f"{month} {day} {year}",
            f"{month} {nth}, {year}",
            f"{month[:3]} {day}, {year}",
            f"{year}-{MONTHS.index(month) + 1:02d}-{day:02d}",
        )
    else:  # a range of days without a year
        yield re.sub(rf"(\d+) ({names})", r"\2 \1", form)


def _money(form: str) -> Iterator[str]:
    if found := re.fullmatch(r"EUR (\d[\d.,]*)( million)?", form):
        amount = found[1] + (found[2] or "")
        yield from (
            f"€{amount}",
            f"€ {amount}",
            f"{amount} EUR",
            f"{amount} €",
            f"{amount} euros",
            f"{amount} euro",
        )


def _units(form: str) -> Iterator[str]:
    for unit, *others in UNITS:
        if found := re.fullmatch(rf"(.*\d) {re.escape(unit)}", form):
            if len(unit) <= 3 or "/" in unit:  # 17.4MW, but not 52hours
                yield found[1] + unit
            yield from (f"{found[1]} {other}" for other in others)
            yield from (found[1] + other for other in others if len(other) <= 2)
    if found := re.fullmatch(r"([\d.,]+) (hour|minute|second|day|month)s", form):
        yield f"{found[1]}-{found[2]}"


def _percent(form: str) -> Iterator[str]:
    if found := re.fullmatch(r"([\d.]+)%(.*)", form):
        yield from (
            f"{found[1]} percent{found[2]}",
            f"{found[1]} per cent{found[2]}",
            f"{found[1]} %{found[2]}",
        )


def _shorter(form: str) -> Iterator[str]:
    """The part that carries the value, where the rest only names what the question asked for."""
    patterns = (
        r"([\d.]+(?:%| percent| per cent| %)) (?:of|per|RH).*",
        r"every (\d+ \w+)",
        r"(\d+(?:nd|rd|st|th)) of each month",
        r"(?:extension|bridge) (\d+)",
        r"AS(\d+)",
        r"(\d+-minute) .*",
    )
    for pattern in patterns:
        if found := re.fullmatch(pattern, form):
            yield found[1]
    if found := re.fullmatch(r"extension (\d+)", form):
        yield from (f"ext. {found[1]}", f"ext {found[1]}", f"x{found[1]}")


def _pairs(form: str) -> Iterator[str]:
    """Two values that may stand in another order or be joined by another word."""
    if found := re.fullmatch(r"(.+) and (.+)", form):
        yield f"{found[2]} and {found[1]}"
    if found := re.fullmatch(r"([\d:.]+) to ([\d:.]+.*)", form):
        yield from (f"{found[1]}–{found[2]}", f"{found[1]}-{found[2]}", f"{found[1]} and {found[2]}")
    if found := re.fullmatch(r"(\d+) or (\d+.*)", form):
        yield f"{found[1]} and {found[2]}"
