"""Errors and hints as sentences; the technical text is there too, folded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import streamlit as st

from lab.errors import ConfigError, LabError


def sentences(error: LabError) -> list[str]:
    """What a person should read: all mistakes of a config, or the error's one sentence."""
    return list(error.mistakes) if isinstance(error, ConfigError) else [str(error)]


def show_error(error: LabError) -> None:
    """The sentence, and what caused it in a fold."""
    show_mistakes(sentences(error))
    if error.__cause__ is not None:
        with st.expander("Technical text"):
            st.code(f"{type(error.__cause__).__name__}: {error.__cause__}", language=None, wrap_lines=True)


def show_mistakes(mistakes: Sequence[str]) -> None:
    """All of them together."""
    if len(mistakes) == 1:
        st.error(plain(mistakes[0]))
    elif mistakes:
        st.error("\n".join(f"- {plain(mistake)}" for mistake in mistakes))


@contextmanager
def speaking() -> Iterator[None]:
    """Within this, a LabError becomes its sentence on the page instead of a traceback. Bugs keep theirs."""
    try:
        yield
    except LabError as error:
        show_error(error)


def plain(text: str) -> str:
    """The text as it is: nothing in it is taken for Markdown, LaTeX or an icon."""
    for character in "\\`*_{}[]<>#$~:|":
        text = text.replace(character, "\\" + character)
    return text
