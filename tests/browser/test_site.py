"""The website, page by page, in a real browser with no network. Build it first: make site."""

import http.server
import re
import threading
from functools import partial
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import numpy as np
import pytest

ROOMS = ["data", "slides", "bags", "models", "training", "evaluation", "localization", "asking", "commands", "ground"]
PAGES = [
    "index",
    "start",
    "viewer",
    "glossary",
    "bibliography",
    "api",
    *(f"api/{room}" for room in ROOMS),
    "teach",
    *(f"workshop/{page}" for page in ("plans", "mail", "predict", "do-dont")),
    "failures",
    "cluster",
    "contributing",
    "changelog",
    "search",
    "genindex",
]
NOTEBOOKS = [
    "01-data-and-patch-labels",
    "02-bags-and-collate",
    "03-abmil-from-scratch",
    "04-training-on-gpu",
    "05-evaluation",
    "06-metastasis-localization",
    "appendix-training",
    "mil-in-one-hour",
    "do-and-dont",
]
ALL = PAGES + [f"notebooks/{n}" for n in NOTEBOOKS]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Nothing."""


@pytest.fixture(scope="session")
def site(repo):
    folder = repo / "build" / "site"
    if not (folder / "index.html").exists():
        pytest.skip("the site is not built: make site")
    return folder


@pytest.fixture(scope="session")
def address(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture
def visit(open_page, address):
    def visit_(name, **more):
        return open_page(f"{address}{name}.html", allow=(address, "data:", "blob:", "about:"), **more)

    return visit_


@pytest.mark.parametrize("name", ALL)
def test_a_page_is_whole_on_desktop_and_phone(visit, name):
    for width in (1400, 390):
        page = visit(name, width=width)
        page.wait_for_load_state("load")
        assert page.faults == [], f"{name} at {width} px"
        broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
        assert broken == [], name
        assert (
            page.evaluate("[...document.images].filter(i => !i.alt && !i.matches('.logo__image')).map(i => i.src)")
            == []
        ), f"{name}: pictures without a text"
        empty = (
            "[...document.querySelectorAll('article thead')].filter(h => h.offsetHeight && !h.innerText.trim()).length"
        )
        assert page.evaluate(empty) == 0, f"{name}: a table with an empty head"
        over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 1, f"{name} is {over} px too wide at {width} px"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1024, 1400, 1920])
def test_the_first_screen_has_a_slide_to_touch(visit, width, scheme):
    """What a visitor sees: the slide whole, its menu, its colour bar; nothing grows, nothing sticks out."""
    page = visit("index", width=width, height=900, color_scheme=scheme)
    hero = page.frame_locator("iframe.hero")
    slide = hero.locator("#map .leaflet-image-layer")
    slide.wait_for()
    frame = page.locator("iframe.hero").bounding_box()
    for part in (slide, hero.locator("#score"), hero.locator("#bar")):
        box = part.bounding_box()
        assert box["x"] >= frame["x"] - 1 and box["x"] + box["width"] <= frame["x"] + frame["width"] + 1
        assert box["y"] >= frame["y"] - 1 and box["y"] + box["height"] <= frame["y"] + frame["height"] + 1
    seen, area = slide.bounding_box(), hero.locator("#map").bounding_box()
    assert seen["y"] + seen["height"] <= 900, "one has to scroll to see the slide"
    assert max(seen["width"] / area["width"], seen["height"] / area["height"]) > 0.75, "the slide is small"
    assert hero.locator("#score").input_value() in ("contribution", "attention x n"), "a score that means nothing"
    heights = []
    for _ in range(6):
        heights.append(page.evaluate("document.documentElement.scrollHeight"))
        page.wait_for_timeout(2000)
    assert len(set(heights)) == 1, f"the page grows: {heights}"
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 1
    assert page.locator(".navbar-brand img").first.evaluate("e => e.getBoundingClientRect().width") <= 60, "a huge mark"
    assert page.faults == []


@pytest.mark.parametrize("paper", ["A4", "Letter"])
def test_do_and_dont_is_one_sheet(visit, paper):
    sheets = visit("notebooks/do-and-dont").pdf(format=paper)
    assert len(re.findall(rb"/Type\s*/Page\b", sheets)) == 1


def test_no_link_is_broken(site):
    pages = {
        p.relative_to(site).as_posix(): p.read_text(encoding="utf-8")
        for p in site.rglob("*.html")
        if "_static" not in p.parts
    }
    anchors = {name: set(re.findall(r'\s(?:id|name)="([^"]+)"', text)) for name, text in pages.items()}
    wrong = []
    for name, text in pages.items():
        text = re.sub(r'srcdoc="[^"]*"', "", text)
        for link in re.findall(r'<a\s[^>]*?href="([^"]+)"', text):
            if urlparse(link).scheme or link.startswith("//"):
                continue
            target, anchor = urldefrag(urljoin(name, unquote(link)))
            target = target or name
            there = target in pages or (site / target).is_file()
            if not there or (anchor and target in anchors and anchor not in anchors[target]):
                wrong.append(f"{name}: {link}")
    assert wrong == []


def luminance(color):
    parts = np.array([float(v) for v in re.findall(r"[\d.]+", color)[:3]]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_dark_mode_is_readable(visit):
    for name in ("index", "notebooks/03-abmil-from-scratch"):
        page = visit(name)
        page.evaluate("document.documentElement.dataset.mode = document.documentElement.dataset.theme = 'dark'")
        text, ground = page.evaluate(
            "[getComputedStyle(document.querySelector('article p')).color,"
            " getComputedStyle(document.body).backgroundColor]"
        )
        light, dark = luminance(text), luminance(ground)
        assert (light + 0.05) / (dark + 0.05) >= 4.5 and dark < 0.1, f"{name}: {text} on {ground}"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    "name",
    ["index", "viewer", "glossary", "teach", "notebooks/03-abmil-from-scratch", "notebooks/06-metastasis-localization"],
)
def test_axe_finds_no_serious_fault(visit, name, theme):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(name)
    page.evaluate(f"document.documentElement.dataset.mode = document.documentElement.dataset.theme = '{theme}'")
    page.wait_for_timeout(500)
    found = Axe().run(page, options={"iframes": False})
    serious = [v for v in found.response["violations"] if v["impact"] in ("serious", "critical")]
    assert serious == [], "\n".join(
        f"{v['id']}: {v['help']} at {[n['target'] for n in v['nodes']][:4]}" for v in serious
    )


def test_search_finds_attention(visit):
    page = visit("search")
    page.goto(page.url + "?q=attention")
    page.locator("ul.search li a").first.wait_for()
    hits = page.locator("ul.search li a").all_inner_texts()
    assert any("scratch" in h for h in hits) and any("metastasis" in h for h in hits), hits
    page.locator("ul.search li p.context").nth(3).wait_for()
    for words in page.locator("ul.search li p.context").all_inner_texts():
        assert not re.search("System Settings|Toggle|Print to PDF|Repository", words), (
            f"words of the interface: {words}"
        )


def test_solutions_are_closed_and_open_on_a_click(visit):
    page = visit("notebooks/03-abmil-from-scratch")
    closed = page.locator(".tag_solution details", has_text="def softmax").first
    assert closed.get_attribute("open") is None
    closed.locator("summary").click()
    assert "return e / e.sum()" in closed.inner_text()


def test_formulas_are_set_without_a_network(visit):
    page = visit("notebooks/03-abmil-from-scratch")
    page.locator("mjx-container").first.wait_for()
    assert page.locator("mjx-container").count() > 5 and page.locator("mjx-merror").count() == 0
    assert page.faults == []


@pytest.mark.parametrize("name", ["viewer", "notebooks/06-metastasis-localization"])
def test_the_viewer_lives_in_the_page(visit, name):
    page = visit(name)
    frame = page.frame_locator("iframe").first
    slide = frame.locator("#map")
    slide.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    before = slide.screenshot()
    frame.get_by_role("slider").first.press("End")
    page.wait_for_timeout(500)
    assert slide.screenshot() != before
    assert page.faults == []


@pytest.mark.parametrize("name", ["index", "viewer", "notebooks/06-metastasis-localization"])
def test_the_viewer_is_as_light_or_dark_as_the_site(visit, name):
    page = visit(name, color_scheme="light")
    page.frame_locator("iframe").first.locator("#map .leaflet-image-layer").wait_for()
    body = page.frame_locator("iframe").first.locator("body")
    for theme, color in (("dark", "rgb(17, 20, 23)"), ("light", "rgb(255, 255, 255)")):
        page.evaluate(f"document.documentElement.dataset.mode = document.documentElement.dataset.theme = '{theme}'")
        page.wait_for_timeout(200)
        assert body.evaluate("e => getComputedStyle(e).backgroundColor") == color


def test_notebooks_can_be_downloaded(visit, site):
    page = visit("notebooks/02-bags-and-collate")
    links = page.locator("a[href$='02-bags-and-collate.ipynb']").evaluate_all(
        "all => all.map(a => a.getAttribute('href'))"
    )
    assert any((site / "notebooks" / link).resolve().is_file() for link in links if "://" not in link), links


WRONG = """() => {
  const slide = document.querySelector("section.now"), all = slide.getBoundingClientRect(), found = [];
  const foot = slide.querySelector("footer").getBoundingClientRect().top;
  for (const e of slide.querySelectorAll("h1, p, pre, img")) {
    if (e.closest("aside")) continue;
    const box = e.getBoundingClientRect();
    if (box.bottom > foot + 1 || box.right > all.right + 1) found.push("overflow: " + e.tagName);
    if (e.tagName != "IMG" && parseFloat(getComputedStyle(e).fontSize) < 24) found.push("small: " + e.tagName);
  }
  const image = slide.querySelector("img");
  if (image) {
    const px = image.dataset.letters * image.getBoundingClientRect().width / image.getAttribute("width");
    if (px < 24) found.push("letters of " + px.toFixed(1) + " px");
    if (!image.alt) found.push("no words for the figure");
  }
  return found;
}"""


@pytest.mark.parametrize("n", range(1, 7))
def test_slides_can_be_read_from_the_last_row_without_a_network(open_page, repo, n):
    decks = list((repo / "build" / "workshop" / "slides").glob(f"0{n}*.html"))
    if not decks:
        pytest.skip("the slides are not built: make workshop")
    page = open_page(decks[0].as_uri(), width=1280, height=720)
    total = page.locator("section").count()
    assert total >= 8 and page.locator("section.exercise pre").count() >= 3
    assert page.locator("section aside p").count() >= 2 * total - 6
    for i in range(total):
        page.wait_for_function(
            "[...document.querySelectorAll('section.now img')].every(i => i.complete && i.naturalWidth)"
        )
        assert page.evaluate(WRONG) == [], f"slide {i + 1}"
        page.keyboard.press("ArrowRight")
    assert page.url.endswith(f"#{total}") and page.faults == []
