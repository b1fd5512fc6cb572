"""The page in a real browser: drawn, quiet, offline, and usable with the keyboard."""

import pytest

from analysis import report

pytestmark = pytest.mark.browser


@pytest.fixture
def opened(browser, writer, demo):
    """A function that opens the page of the demo, or of what `fill` writes, and returns the browser."""

    def make(fill=None, **view):
        page = demo / "report.html"
        if fill:
            w = writer()
            fill(w)
            page = report.build(w.root, images_too=False)
        browser.errors.clear(), browser.requests.clear()
        browser.open(page, **view)
        return browser

    return make


def drawn(browser):
    """Scroll through the page until every visible figure is drawn."""
    browser.run(
        "(async () => { for (const c of document.querySelectorAll('.chart')) { c.scrollIntoView(); "
        "await new Promise((r) => setTimeout(r, 60)); } })()"
    )
    browser.wait(
        "[...document.querySelectorAll('.chart')].every((c) => !c.clientWidth || "
        "c.querySelector('svg.marks'))"
    )


@pytest.mark.parametrize(
    "view", [{}, {"dark": True}, {"width": 390, "height": 800}], ids=["light", "dark", "phone"]
)
def test_the_page_is_drawn_without_errors_or_requests(opened, view):
    browser = opened(**view)
    drawn(browser)
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run("document.documentElement.dataset.theme") == ("dark" if view.get("dark") else "light")


def test_the_first_screen_answers(opened):
    fill = lambda w: w.grid(("lora", "dora"), (8,), range(5), effects={"dora": 0.15})  # noqa: E731
    browser = opened(fill)
    assert browser.run("document.querySelector('h1').textContent").startswith("Take dora at rank 8: +0.")
    assert browser.run("document.querySelector('.pick').getBoundingClientRect().bottom") < 900
    assert browser.run("[...document.querySelectorAll('details')].every((d) => !d.open)")
    assert opened(fill, width=390, height=800).run("document.documentElement.scrollWidth") == 390


def test_tables_sort_by_a_heading_with_the_keyboard(opened):
    browser = opened()
    column = (
        "[...document.querySelectorAll('#results-table tbody tr')].map((r) => Number(r.cells[3].dataset.v))"
    )
    browser.run("document.querySelectorAll('#results-table thead button')[3].focus()")
    browser.key("Enter", windowsVirtualKeyCode=13, text="\r")
    down = browser.run(column)
    assert down == sorted(down, reverse=True)
    browser.key("Enter", windowsVirtualKeyCode=13, text="\r")
    assert browser.run(column) == sorted(down)
    assert (
        browser.run("document.querySelectorAll('#results-table thead th')[3].getAttribute('aria-sort')")
        == "ascending"
    )


def test_tables_filter_by_all_words(opened):
    browser = opened()
    browser.run(
        "(() => { const i = document.querySelector('[data-filter=results-table]'); i.value = 'dora 8'; "
        "i.dispatchEvent(new Event('input')); })()"
    )
    assert (
        browser.run(
            "[...document.querySelectorAll('#results-table tbody tr')].filter((r) => !r.hidden).length"
        )
        == 1
    )
    assert browser.run("document.querySelector('[data-count=results-table]').textContent") == "1 of 6"


def test_the_cost_axis_can_be_chosen(opened):
    browser = opened()
    browser.run(
        "(() => { const s = document.querySelector('select.axis'); s.value = 'figure-metric_by_step_ms'; "
        "s.dispatchEvent(new Event('change')); })()"
    )
    browser.wait("document.querySelector('#figure-metric_by_step_ms svg.marks')")
    assert browser.run("document.getElementById('figure-metric_by_trainable_parameters').hidden")
    assert browser.run("document.activeElement.value") == "figure-metric_by_step_ms"


def test_the_theme_can_be_switched(opened):
    browser = opened()
    drawn(browser)
    browser.run("document.getElementById('theme').click()")
    browser.wait("document.documentElement.dataset.theme === 'dark'")
    drawn(browser)
    assert browser.errors == []


def test_a_run_opens_on_its_spec_and_command(opened):
    browser = opened()
    browser.run("document.querySelector('#runs summary').click()")
    browser.wait("document.querySelector('#runs .run-body')")
    text = browser.run("document.querySelector('#runs .run-body').textContent")
    assert "python run.py variant=" in text and "test/accuracy" in text and '"train"' in text


def test_names_with_markup_run_nothing(opened):
    evil = "<img src=x onerror=window.hacked=1>"
    browser = opened(lambda w: [w.run(w.spec("lora", r, 0, dataset=evil), notes=[evil]) for r in (4, 8)])
    drawn(browser)
    browser.run("document.querySelector('#runs summary').click()")
    assert browser.run("window.hacked === undefined")
    assert browser.errors == []


def test_a_study_without_results_is_a_quiet_page(opened):
    browser = opened(lambda w: w.run(w.spec("dora", 8, 0), status="diverged"))
    assert "No run has been completed" in browser.run("document.querySelector('h1').textContent")
    assert browser.errors == []
