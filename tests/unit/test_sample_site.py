"""The sample site is a ground truth: each fact stands on its page, the same bytes every time."""

import http.client
import shutil
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import pytest

from tuneproof.corpus.sample_site import aliases, file_of, main_text, render
from tuneproof.corpus.serve import serve

SOURCE = Path(__file__).parents[2] / "sample_site"
HOST = "www.haldrune.test"
ROOT = f"http://{HOST}"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    site = tmp_path_factory.mktemp("haldrune")
    return site, render(SOURCE, site)


def text_of(site: Path, path: str) -> str:
    return main_text((site / file_of(path)).read_text(encoding="utf-8"))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_pages_and_facts(rendered: tuple[Path, list[dict]]) -> None:
    _, facts = rendered
    per_page = Counter(fact["path"] for fact in facts)
    assert len(per_page) == 46
    assert Counter(path.split("/")[1] or "company" for path in per_page) == {
        "metros": 18,
        "products": 10,
        "support": 9,
        "company": 9,
    }
    assert set(per_page.values()) <= set(range(6, 10))
    assert len({fact["id"] for fact in facts}) == len(facts)


def test_every_fact_is_on_its_page_and_no_other(rendered: tuple[Path, list[dict]]) -> None:
    site, facts = rendered
    texts = {path: text_of(site, path) for path in {fact["path"] for fact in facts}}
    for fact in facts:
        assert [path for path, text in texts.items() if fact["value"] in text and fact["subject"] in text] == [
            fact["path"]
        ], fact


def test_values_and_questions_have_one_answer(rendered: tuple[Path, list[dict]]) -> None:
    _, facts = rendered
    assert len({fact["value"] for fact in facts}) == len(facts)
    assert len({(fact["subject"], fact["attribute"]) for fact in facts}) == len(facts)
    spellings = Counter((fact["path"], form) for fact in facts for form in [fact["value"], *fact["aliases"]])
    assert [key for key, count in spellings.items() if count > 1] == []


def test_totals_agree_with_the_sites(rendered: tuple[Path, list[dict]]) -> None:
    """A reader who adds up the data centres must not find the company's figures wrong."""
    _, facts = rendered

    def total(attribute: str) -> float:
        return sum(float(f["value"].split()[0].replace(",", "")) for f in facts if f["attribute"] == attribute)

    assert total("power capacity") == pytest.approx(total("combined power"))
    assert total("power capacity") == pytest.approx(total("total power capacity"))
    assert total("cabinet count") == total("combined cabinet count") == total("total cabinet count")


def test_rendering_twice_gives_the_same_bytes(rendered: tuple[Path, list[dict]], tmp_path: Path) -> None:
    site, facts = rendered
    assert render(SOURCE, tmp_path) == facts
    assert tree(tmp_path) == tree(site)


def test_a_fact_missing_from_its_page_is_named(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(SOURCE, source)
    template = source / "templates/products/cages.html.j2"
    template.write_text(template.read_text(encoding="utf-8").replace("{{ f.setup_fee }}", "a fee"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"/products/cages.html: the setup fee of Haldrune Private Cage, 'EUR 8,420'"):
        render(source, tmp_path / "site")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("7", "too vague"),
        ("EUR 8,420", "already the value of /products/cages.html: setup fee"),
        ("Ironleaf", "part of another value"),
    ],
)
def test_a_value_that_cannot_be_checked_is_refused(tmp_path: Path, value: str, message: str) -> None:
    shutil.copytree(SOURCE, tmp_path / "source")
    table = tmp_path / "source/facts.yaml"
    text = table.read_text(encoding="utf-8")
    assert "build_time: 46 days" in text
    table.write_text(text.replace("build_time: 46 days", f'build_time: "{value}"'), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        render(tmp_path / "source", tmp_path / "site")


def test_sitemap_lists_exactly_the_public_pages(rendered: tuple[Path, list[dict]]) -> None:
    site, facts = rendered
    space = "{http://www.sitemaps.org/schemas/sitemap/0.9}"
    listed = [loc.text or "" for loc in ET.parse(site / "sitemap.xml").iter(f"{space}loc")]
    assert set(listed) == {ROOT + fact["path"] for fact in facts}
    assert len(listed) == len(set(listed))
    assert all((site / file_of(urlsplit(url).path)).is_file() for url in listed)
    assert not [url for url in listed if "/internal/" in url or "copy" in url]
    assert (site / "robots.txt").read_text() == f"User-agent: *\nDisallow: /internal/\n\nSitemap: {ROOT}/sitemap.xml\n"


def test_what_makes_the_site_awkward(rendered: tuple[Path, list[dict]]) -> None:
    site, _ = rendered
    assert text_of(site, "/services/remote-hands-copy.html") == text_of(site, "/support/remote-hands.html")
    assert 'href="/services/remote-hands-copy.html"' in (site / "support/shipping.html").read_text(encoding="utf-8")
    assert "canonical" not in (site / "services/remote-hands-copy.html").read_text(encoding="utf-8")

    assert "/products/colo.html /products/cabinets.html 301\n" in (site / "_redirects").read_text()
    assert 'href="/products/colo.html"' in (site / "company/about.html").read_text(encoding="utf-8")
    assert not (site / "products/colo.html").exists()

    assert 'href="/company/press-kit.html"' in (site / "company/partners.html").read_text(encoding="utf-8")
    assert not (site / "company/press-kit.html").exists()

    closed = sorted(f"/internal/{file.name}" for file in (site / "internal").iterdir())
    assert closed == ["/internal/price-floor.html", "/internal/rota.html"]
    linking = [name for name, html in tree(site).items() if b"/internal/" in html and name.endswith(".html")]
    assert linking == ["company/careers.html"]


def test_every_other_link_leads_somewhere(rendered: tuple[Path, list[dict]]) -> None:
    site, _ = rendered
    moved = {line.split()[0] for line in (site / "_redirects").read_text().splitlines()}
    broken = set()
    for name, html in tree(site).items():
        if name.endswith(".html"):
            for piece in html.decode().split('href="')[1:]:
                path = piece.partition('"')[0].removeprefix(ROOT)
                if path not in moved and not (site / file_of(path)).is_file():
                    broken.add(path)
    assert broken == {"/company/press-kit.html"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("17.4 MW", {"17.4 megawatts", "17.4MW"}),
        ("1,240 cabinets", {"1240 cabinets"}),
        ("1,475 kg", {"1475 kg", "1475 kilograms", "1,475 kilograms"}),
        ("14 March 2019", {"14 Mar 2019", "March 14, 2019", "March 14th, 2019", "2019-03-14"}),
        ("2 November 2016", {"2nd of November 2016", "2016-11-02"}),
        ("EUR 8,420", {"€8,420", "€8420", "8420 euros"}),
        ("EUR 2.35 million", {"€2.35 million"}),
        ("4.5% of the monthly fee", {"4.5%", "4.5 percent of the monthly fee"}),
        ("35 percent", {"35%"}),
        ("extension 4471", {"ext. 4471", "4471"}),
        ("Annegret Brückmoor", {"Annegret Bruckmoor"}),
        ("07:15 to 18:45", {"07:15-18:45"}),
    ],
)
def test_aliases(value: str, expected: set[str]) -> None:
    assert expected <= set(aliases(value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [("Ingrid Tolvanen", []), ("22nd of each month", ["22nd"]), ("52 hours", ["52 h", "52-hour", "52h"])],
)
def test_aliases_do_not_loosen_the_value(value: str, expected: list[str]) -> None:
    assert aliases(value) == expected


def test_a_day_of_the_month_is_not_a_date() -> None:
    assert "9th" not in aliases("9 May 2006")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


class Client:
    """Asks through the proxy as a crawler would, following no redirect."""

    def __init__(self, proxy: str) -> None:
        self.proxy = proxy
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy}), _NoRedirect)

    def get(self, url: str, method: str = "GET") -> tuple[int, Message, bytes]:
        try:
            with self.opener.open(urllib.request.Request(url, method=method), timeout=10) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.headers, answer.read()

    def raw(self, target: str) -> int:
        """The status for a request target sent as it is, without a client's tidying of dots."""
        connection = http.client.HTTPConnection(urlsplit(self.proxy).netloc, timeout=10)
        connection.putrequest("GET", target, skip_host=True)
        connection.putheader("Host", HOST)
        connection.endheaders()
        status = connection.getresponse().status
        connection.close()
        return status


@pytest.fixture(scope="module")
def seen() -> list[tuple[str, str, int]]:
    return []


@pytest.fixture(scope="module")
def client(rendered: tuple[Path, list[dict]], seen: list[tuple[str, str, int]]) -> Iterator[Client]:
    with serve(rendered[0], HOST, on_request=lambda *request: seen.append(request)) as proxy:
        yield Client(proxy)


def test_pages_are_served_under_the_host_name(
    client: Client, rendered: tuple[Path, list[dict]], seen: list[tuple[str, str, int]]
) -> None:
    status, headers, body = client.get(f"{ROOT}/metros/cv2.html?from=test")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert body == (rendered[0] / "metros/cv2.html").read_bytes()
    assert seen[-1] == ("GET", "/metros/cv2.html", 200)
    assert client.get(f"{ROOT}/")[2] == (rendered[0] / "index.html").read_bytes()
    assert client.get(f"{ROOT}/robots.txt")[1]["Content-Type"] == "text/plain; charset=utf-8"
    assert client.get(f"{ROOT}/style.css")[1]["Content-Type"] == "text/css; charset=utf-8"


def test_the_same_page_without_the_proxy(client: Client) -> None:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{client.proxy}/metros/cv2.html") as answer:
        assert answer.read() == client.get(f"{ROOT}/metros/cv2.html")[2]


def test_head_sends_no_body(client: Client, rendered: tuple[Path, list[dict]]) -> None:
    status, headers, body = client.get(f"{ROOT}/metros/cv2.html", method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) == (rendered[0] / "metros/cv2.html").stat().st_size


def test_redirect(client: Client, seen: list[tuple[str, str, int]]) -> None:
    status, headers, body = client.get(f"{ROOT}/products/colo.html")
    assert (status, headers["Location"], body) == (301, "/products/cabinets.html", b"")
    assert seen[-1] == ("GET", "/products/colo.html", 301)
    follow = urllib.request.build_opener(urllib.request.ProxyHandler({"http": client.proxy}))
    with follow.open(f"{ROOT}/products/colo.html", timeout=10) as answer:
        assert answer.url == f"{ROOT}/products/cabinets.html"


def test_missing_page(client: Client, rendered: tuple[Path, list[dict]], seen: list[tuple[str, str, int]]) -> None:
    status, headers, body = client.get(f"{ROOT}/company/press-kit.html")
    assert (status, headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert body == (rendered[0] / "404.html").read_bytes()
    assert seen[-1] == ("GET", "/company/press-kit.html", 404)
    assert client.get(f"{ROOT}/metros/")[0] == 404  # a folder without an index
    assert client.get(f"{ROOT}/_redirects")[0] == 404


@pytest.mark.parametrize("target", ["http://elsewhere.test/", f"https://{HOST}/", f"http://{HOST}:81/", "http://[/"])
def test_another_host_is_refused(client: Client, target: str) -> None:
    assert client.raw(target) == 502


@pytest.mark.parametrize(
    "target",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        f"{ROOT}/metros/../../secret.txt",
        "/..%5csecret.txt",
        "/metros%00.html",
        "//../secret.txt",
    ],
)
def test_paths_out_of_the_folder_are_refused(client: Client, rendered: tuple[Path, list[dict]], target: str) -> None:
    (rendered[0].parent / "secret.txt").write_text("secret")
    assert client.raw(target) == 403
