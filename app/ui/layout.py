"""The few rules of layout that the theme file cannot express. No colours here: those are the theme's."""

import streamlit as st

_STYLES = """
<style>
  /* One column on a narrow screen. */
  @media (max-width: 900px) {
    [data-testid="stMain"] [data-testid="stHorizontalBlock"] > [data-testid="stColumn"] { min-width: 100%; }
  }
  /* Polls redraw numbers, and should not be seen at work: nothing fades while a part looks again. */
  [data-testid="stMain"] [data-stale="true"] { opacity: 1; transition: none; }
  [data-testid="stStatusWidget"] { visibility: hidden; }
  /* Numbers that move should not make their neighbours move. */
  [data-testid="stMetricValue"], [data-testid="stProgress"], .st-key-status_strip {
    font-variant-numeric: tabular-nums;
  }
  [data-testid="stHeading"] h1 { padding: 0.2rem 0; }
  .st-key-status_strip { min-height: 2.6rem; }
  .st-key-sql_text textarea { font-family: "Source Code Pro", monospace; font-size: 0.9rem; line-height: 1.5; }
  .st-key-status_strip p { font-size: 0.95rem; }
</style>
"""


def page_styles() -> None:
    """Put the rules on the page; to be called once, at its top."""
    st.html(_STYLES)
