"""What each colour of the theme means, on every page.

The colours themselves stand in `.streamlit/config.toml` (light and dark); these are their places in
`chartCategoricalColors`, so that no page names a colour.
"""

TRAIN = 0
VALIDATION = 1
TUNED = 2
EVENT = 3
BASE = 4  # also runs of the past, laid faintly under a live one
OTHERS = (0, 1, 2, 5, 6, 7, 3, 4)
"""Places in the order in which overlaid runs take them."""
