"""The page for people, in a real browser: at a desk, on a phone, by keyboard, and when something goes wrong."""

import copy
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from servers import CLASSES, encoded, make_detector, photo, running

from vitdet.serve.guard import Access

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium; apt-get install chromium")
FLAGS = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
FILE = {"name": "cells.png", "mimeType": "image/png", "buffer": encoded(photo(size=(240, 320)))}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as play:
        started = play.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """Opens the page; an error of its script, or a call to another server, makes the test fail."""
    opened, faults = [], []

    def start(url, width=1280, height=860, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(15000)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda one: None if one.url.startswith((url, "blob:", "data:")) else faults.append(one.url))
        page.goto(url)
        opened.append(context)
        return page

    yield start
    for context in opened:
        context.close()
    assert not faults


def pixels(page):
    return np.asarray(Image.open(io.BytesIO(page.locator("#canvas").screenshot())).convert("RGB")).astype(int)


def shown(page):
    return page.locator("#list button").count()


def slide(page, selector, value):
    page.locator(selector).evaluate("(one, value) => { one.value = value; one.oninput(); }", value)


def test_a_picture_is_chosen_looked_at_and_saved(open_page, mask_url, with_masks):
    page = open_page(mask_url)
    page.wait_for_selector("#model:not(:empty)")
    page.set_input_files("#file", FILE)
    page.wait_for_selector("#list button")
    own = with_masks.predict(photo(size=(240, 320)))
    assert shown(page) == len(own)
    # a lower threshold shows more, and one of a class counts for that class alone
    slide(page, "#all", 5)
    assert shown(page) == len(with_masks.predict(photo(size=(240, 320)), threshold=0.05))
    counts = {name: page.locator("#list button", has_text=name).count() for name in CLASSES}
    most = max(counts, key=counts.get)
    slide(page, f"input[aria-label='lowest score of {most}']", 95)
    assert shown(page) == sum(counts.values()) - counts[most]
    page.click("#reset")
    assert shown(page) == len(own)
    # the list and the picture show the same object
    before = pixels(page)
    page.hover("#list li:nth-child(2) button")
    assert np.abs(pixels(page) - before).mean() > 1
    page.uncheck(f"input[aria-label='show {most}']")
    assert page.locator("#list button", has_text=most).count() == 0
    page.check(f"input[aria-label='show {most}']")
    with page.expect_download() as saved:
        page.click("#json")
    told = json.loads(saved.value.path().read_text(encoding="utf-8"))
    assert saved.value.suggested_filename == "cells.json" and len(told["objects"]) == len(own)
    assert told["threshold"] == with_masks.thresholds
    with page.expect_download() as saved:
        page.click("#save")
    assert saved.value.suggested_filename == "cells_found.png"
    assert Image.open(saved.value.path()).size == (800, 600)


def test_boxes_lie_where_the_objects_are(open_page, url, detector):
    """A box is drawn at its place, whatever the size at which the picture is shown."""
    page = open_page(url)
    page.set_input_files("#file", {**FILE, "buffer": encoded(np.full((240, 320, 3), 128, np.uint8))})
    page.wait_for_selector("#list button")
    box = detector.predict(np.full((240, 320, 3), 128, np.uint8)).boxes_xyxy[0].numpy()
    page.hover("#list li:first-child button")
    drawn = pixels(page)
    # the chosen box is in full colour, and the others are faint
    strong = drawn.max(2) - drawn.min(2) > 120
    rows, columns = np.flatnonzero(strong.any(1)), np.flatnonzero(strong.any(0))
    scale = drawn.shape[1] / 320
    # the plate of the name stands above the box, or in it
    assert abs(columns[0] - box[0] * scale) < 6 and abs(rows[-1] - box[3] * scale) < 6


def test_a_phone_shows_it_without_sideways_scrolling(open_page, mask_url):
    page = open_page(mask_url, 390, 844, has_touch=True, is_mobile=True, color_scheme="dark")
    page.set_input_files("#file", FILE)
    page.wait_for_selector("#list button")
    assert page.locator("html").evaluate("one => one.scrollWidth") <= 390
    assert page.locator("body").evaluate("one => getComputedStyle(one).backgroundColor") == "rgb(20, 23, 26)"
    small = page.locator("button:visible, input:visible").evaluate_all(
        """all => all.filter(one => Math.max(...[one, one.parentElement]
        .map(a => a.getBoundingClientRect().height)) < 32).length"""
    )
    assert small == 0
    frame = page.locator("#canvas").bounding_box()
    page.touchscreen.tap(frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2)
    assert page.locator("#list button.on").count() == 1
    # picture and list are on the screen together
    assert page.locator("#listhead").bounding_box()["y"] < 844


def test_by_keyboard_alone(open_page, mask_url):
    page = open_page(mask_url)
    page.wait_for_selector("#model:not(:empty)")
    # a page that has just been opened may have the focus on the window
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "choose":
            break
    assert page.evaluate("document.activeElement.id") == "choose"
    chosen = []
    page.on("filechooser", lambda chooser: chosen.append(chooser))
    # Chromium opens no chooser while it holds the page for inactive, as on a busy machine
    for _ in range(10):
        page.keyboard.press("Enter")
        page.wait_for_timeout(1500)
        if chosen:
            break
    chosen[0].set_files(FILE)
    page.wait_for_selector("#list button")
    first = page.locator("#list button").first
    for _ in range(30):
        page.keyboard.press("Tab")
        if first.evaluate("one => one === document.activeElement"):
            break
    assert first.get_attribute("class") == "on"
    page.keyboard.press("ArrowDown")
    assert page.locator("#list li:nth-child(2) button").get_attribute("class") == "on"
    count = shown(page)
    page.locator("#all").focus()
    page.keyboard.press("Home")
    assert shown(page) >= count and page.locator("#all").input_value() == "5"
    assert "cat" in page.locator("#canvas").get_attribute("aria-label") or shown(page)


def test_drop_paste_and_camera(open_page, mask_url):
    page = open_page(mask_url)
    page.wait_for_selector("#model:not(:empty)")
    in_page = """([kind, bytes, type]) => {
      const files = new DataTransfer();
      files.items.add(new File([new Uint8Array(bytes)], "a.png", { type }));
      dispatchEvent(kind === "paste" ? new ClipboardEvent(kind, { clipboardData: files })
        : new DragEvent(kind, { dataTransfer: files, cancelable: true }));
    }"""
    for kind in ("drop", "paste"):
        page.evaluate(in_page, [kind, list(FILE["buffer"]), "image/png"])
        page.wait_for_selector("#list button")
        page.reload()
        page.wait_for_selector("#model:not(:empty)")
    page.click("#camera")
    page.wait_for_selector("#video:visible")
    page.locator("#video").evaluate("one => new Promise(done => one.videoWidth ? done() : one.onloadeddata = done)")
    page.click("#shoot")
    page.wait_for_selector("#canvas:visible")
    page.wait_for_selector("#panel:visible")
    assert page.locator("#live").is_hidden()


def test_what_goes_wrong_is_said_in_words(open_page, url):
    page = open_page(url)
    page.wait_for_selector("#model:not(:empty)")
    for buffer, words in (
        (b"<svg/>", "can't be read as an image"),
        (bytes(400_000), "0.3 are taken"),
        (encoded(photo())[:200], "damaged"),
    ):
        page.set_input_files("#file", {**FILE, "buffer": buffer})
        page.wait_for_selector(f'#error:has-text("{words}")')
        assert page.locator("#drop").is_visible()
    # a file that browsers don't show, and the server reads
    page.set_input_files("#file", {"name": "a.tif", "mimeType": "image/tiff", "buffer": encoded(photo(), "TIFF")})
    page.wait_for_selector("#list button")
    assert page.locator("#error").is_hidden() and pixels(page).std() > 5


def test_a_server_that_has_gone_is_said(open_page, detector):
    with running(detector) as url:
        page = open_page(url)
        page.wait_for_selector("#model:not(:empty)")
    page.set_input_files("#file", FILE)
    page.wait_for_selector("#error:has-text('reached')")


def test_a_key_is_asked_for(open_page, detector):
    with running(detector, access=Access(keys=["secret"])) as url:
        page = open_page(url)
        for given, shown_after in (("wrong", "#error:has-text('not a key')"), ("secret", "#model:not(:empty)")):
            page.fill("#key", given)
            page.keyboard.press("Enter")
            page.wait_for_selector(shown_after)
        assert page.locator("#keyform").is_hidden() and page.locator("#error").is_hidden()
        page.set_input_files("#file", FILE)
        page.wait_for_selector("#list button")


def test_semantic_maps_are_shown_as_areas(open_page):
    with running(make_detector(semantic=True)) as url:
        page = open_page(url)
        page.set_input_files("#file", FILE)
        page.wait_for_selector("#list button")
        assert "%" in page.locator("#list button").first.inner_text() and page.locator("#all").is_hidden()


def test_the_page_of_the_interface(open_page, url):
    page = open_page(url)
    page.goto(f"{url}/docs")
    page.wait_for_selector("section >> nth=5")
    text = page.locator("body").inner_text()
    for words in ("POST /predict", "threshold", "multipart/form-data", "429", "GET /health/ready", "objects[].box"):
        assert words in text


def test_the_page_shows_what_a_model_of_low_thresholds_gives(open_page, with_masks):
    low = copy.copy(with_masks)
    low.thresholds = [0.02, 0.4, 0.97]
    with running(low) as url:
        page = open_page(url)
        page.wait_for_selector("#model:not(:empty)")
        page.set_input_files("#file", FILE)
        page.wait_for_selector("#list button")
        assert shown(page) == len(low.predict(photo(size=(240, 320))))
        assert page.locator("#all").get_attribute("min") == "2"


def test_names_of_classes_are_no_part_of_the_page(open_page, with_masks):
    odd = copy.copy(with_masks)
    odd.classes = ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "__proto__"]
    with running(odd) as url:
        page = open_page(url)
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        page.wait_for_selector("#model:not(:empty)")
        page.set_input_files("#file", FILE)
        page.wait_for_selector("#list button")
        assert page.locator("img").count() == 0
        assert all(name in page.locator("#model").text_content() for name in odd.classes)
