"""A page taken apart, for tests that ask what is in it."""

from html.parser import HTMLParser

_APART = {"td", "th", "dt", "dd"}
_VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags in order, with their attributes and the text inside them."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self._open = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "attributes": dict(attributes), "text": ""}
        self.tags.append(element)
        if tag in _APART:
            self.handle_data(" ")
        if tag not in _VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        while self._open and self._open.pop()["tag"] != tag:
            pass

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def with_class(self, name):
        """Find the elements of a class."""
        return [e for e in self.tags if name in e["attributes"].get("class", "").split()]

    def named(self, *tags):
        """Find the elements with one of these tags."""
        return [e for e in self.tags if e["tag"] in tags]


def words(element):
    """Read the text of an element with single spaces."""
    return " ".join(element["text"].split())
