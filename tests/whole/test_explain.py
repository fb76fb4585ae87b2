"""Catches an explanation that does not come from a run's own model and data, and texts that pass unlooked at."""

from html.parser import HTMLParser

from tests.whole.command import headwater, headwater_here

TEXT = "def mean(values):\n    return sum(values) / len(values)"


class Page(HTMLParser):
    """The titles, the pictures, and whatever a page would fetch."""

    def __init__(self, text: str):
        super().__init__()
        self.titles, self.images, self.fetched, self._title = [], 0, [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self._title = tag == "h2"
        self.images += tag == "img"
        self.fetched += [
            value for name, value in given.items() if name in ("src", "href") and "://" in str(value)
        ]

    def handle_data(self, data):
        if self._title:
            self.titles.append(data)
            self._title = False


def test_a_text_is_explained_by_a_runs_model_and_training_documents(finished, tmp_path):
    run, _ = finished
    out = tmp_path / "explained.html"
    done = headwater("explain", str(run), TEXT, str(out))
    assert (done.code, done.err) == (0, "")
    assert "nats each" in done.out and "adds up within" in done.out
    page = Page(out.read_text())
    assert len(page.titles) == 6 and page.fetched == []
    assert page.images >= 2  # a map a head, and the one rolled out
    assert "shared runs" in out.read_text() or "No training document shares" in out.read_text()


def test_what_cannot_be_explained_is_refused(finished, tmp_path):
    run, _ = finished
    out = tmp_path / "explained.html"
    for text, said in (("", "tokens\nexpected: 2 to"), ("a b c d e f g h " * 200, "tokens\nexpected: 2 to")):
        done = headwater_here("explain", str(run), text, str(out))
        assert done.code == 2 and said in done.err and not out.exists()
    out.write_text("mine")
    done = headwater_here("explain", str(run), TEXT, str(out))
    assert done.code == 2 and "is there already" in done.err and out.read_text() == "mine"
    done = headwater_here("explain", str(tmp_path / "nothing"), TEXT, str(tmp_path / "x.html"))
    assert done.code == 2 and "no run at" in done.err
