"""The config file that the app is served with."""

import tomllib
from pathlib import Path

import pytest

from app.ui import palette

CONFIG = tomllib.loads((Path(__file__).parents[2] / "app" / ".streamlit" / "config.toml").read_text())


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_nobody_else_on_the_network_is_served_and_nothing_is_sent_out() -> None:
    assert CONFIG["server"]["address"] == "127.0.0.1"
    assert CONFIG["server"]["showEmailPrompt"] is False
    assert CONFIG["browser"]["gatherUsageStats"] is False


def test_a_hot_reload_never_makes_a_second_engine() -> None:
    assert CONFIG["server"]["fileWatcherType"] == "none"


def test_train_validation_and_tuned_have_the_colours_of_okabe_and_ito() -> None:
    colours = CONFIG["theme"]["light"]["chartCategoricalColors"]
    assert colours[palette.TRAIN] == "#0072B2"
    assert colours[palette.VALIDATION] == "#D55E00"
    assert colours[palette.TUNED] == "#009E73"
    assert colours[palette.EVENT] == "#CC79A7"


def test_both_themes_have_a_colour_for_every_place_of_the_palette() -> None:
    for theme in ("light", "dark"):
        assert len(CONFIG["theme"][theme]["chartCategoricalColors"]) == len(set(palette.OTHERS))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_the_two_losses_can_be_told_from_the_ground(theme: str) -> None:
    colours = CONFIG["theme"][theme]
    ground = colours["backgroundColor"]
    assert contrast(colours["textColor"], ground) >= 7
    for place in (palette.TRAIN, palette.VALIDATION, palette.BASE):
        assert contrast(colours["chartCategoricalColors"][place], ground) >= 3


def test_every_line_on_the_dark_ground_has_a_contrast_of_at_least_4_5() -> None:
    dark = CONFIG["theme"]["dark"]
    assert min(contrast(colour, dark["backgroundColor"]) for colour in dark["chartCategoricalColors"]) >= 4.5
