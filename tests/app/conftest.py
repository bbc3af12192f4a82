"""The app without a browser: Streamlit's AppTest on the real pages and the real engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from app.ui.forecasts import get_forecasts
from app.ui.state import get_engine
from lab.engine import Engine

HOME = Path(__file__).parents[2] / "app" / "Home.py"
PATIENCE_S = 30


@pytest.fixture
def engine(lab_home: Path) -> Iterator[Engine]:
    """The engine that the pages will find, on an empty LAB_HOME; nothing of it is left for the next test."""
    st.cache_resource.clear()
    st.cache_data.clear()
    found = get_engine()
    yield found
    get_forecasts().close()
    found.shutdown()
    st.cache_resource.clear()


@pytest.fixture
def home(engine: Engine) -> AppTest:
    """The app, opened at Home."""
    return AppTest.from_file(str(HOME), default_timeout=PATIENCE_S).run()


@pytest.fixture
def pretraining(home: AppTest) -> AppTest:
    """The app, opened at Pretraining."""
    return home.switch_page("../pages/pretraining.py").run()
