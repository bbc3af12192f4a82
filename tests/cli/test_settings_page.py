"""docs/settings.md is made from the config fields."""

from lab.cli.settings_page import PATH, page
from lab.config import KINDS, leaves


def test_the_page_in_docs_is_current():
    assert PATH.read_text(encoding="utf-8") == page(), "run: python -m lab.cli.settings_page"


def test_the_page_names_every_knob():
    text = page()
    for config in KINDS.values():
        assert all(leaf.flag in text for leaf in leaves(config) if leaf.level != "derived")
