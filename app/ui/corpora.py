"""Corpora on the page: the list to choose from, what is known of each, and adding one's own text."""

import streamlit as st

from app.ui import words
from app.ui.figures import TextSize
from app.ui.messages import sentences, show_mistakes, speaking
from lab.config import PretrainConfig
from lab.data.corpora import add_corpus, download_corpus, find_corpus, list_corpora, read_text
from lab.errors import LabError

_OPEN = "own_text_open"
GPT2_VOCABULARY = 50_257
_CHARACTERS_PER_GPT2_TOKEN = 3.7  # English prose; only until the text has been tokenized once


def corpus_names() -> list[str]:
    return [corpus.name for corpus in list_corpora()]


def corpus_label(name: str) -> str:
    """A corpus in the list: its title and length; a path as it is."""
    for corpus in list_corpora():
        if corpus.name == name:
            return f"{corpus.title} ({words.count(corpus.characters)} characters)"
    return name


def short_name(config: PretrainConfig) -> str:
    """The corpus in a run's name: a name as it is, of a path the file."""
    return config.data.corpus.rsplit("/", 1)[-1]


def text_size(config: PretrainConfig) -> TextSize:
    """Tokens and vocabulary of the config's corpus under its tokenizer, without tokenizing it.

    Raises:
        LabError: there is no such corpus, or its text cannot be read.
    """
    corpus = find_corpus(config.data.corpus)
    if config.data.tokenizer == "char":
        return TextSize(tokens=corpus.characters, vocab_size=distinct_characters(corpus.name, corpus.sha256))
    known = corpus.tokens.get(config.data.tokenizer)
    if known is not None:
        return TextSize(tokens=known, vocab_size=GPT2_VOCABULARY)
    guess = int(corpus.characters / _CHARACTERS_PER_GPT2_TOKEN)
    return TextSize(tokens=guess, vocab_size=GPT2_VOCABULARY, exact=False)


@st.cache_data(max_entries=50, show_spinner=False)
def distinct_characters(name: str, sha256: str) -> int:
    """How many different characters a text has: the vocabulary of the character tokenizer.

    The hash is an argument so that a changed text is counted again.
    """
    return len(set(read_text(find_corpus(name))))


def offer_download(name: str) -> None:
    """A button for a corpus that does not ship with the lab and is not here yet."""
    known = {corpus.name: corpus for corpus in list_corpora()}
    if name not in known or known[name].is_here or known[name].kind != "download":
        return
    corpus = known[name]
    st.caption(f"{corpus.title} has to be fetched once: {words.data(corpus.bytes)} from {corpus.url}")
    if st.button("Download", key="download_corpus", width="stretch"):
        bar = st.progress(0.0)

        def show(done: int, total: int | None) -> None:
            bar.progress(min(1.0, done / (total or corpus.bytes)))

        with speaking():
            download_corpus(name, show)
            st.rerun()


def own_text(field_key: str) -> None:
    """Upload a file or paste a text; it becomes a corpus and is chosen.

    Args:
        field_key: session key of the corpus field that is to show the new text.
    """
    with st.popover("Use a text of your own", type="tertiary", key=_OPEN, on_change="rerun"):
        st.caption("Plain text in UTF-8. It stays on this machine.")
        file = st.file_uploader("Text file", type=["txt", "md"], key="own_file")
        pasted = st.text_area("or paste it here", height=120, key="own_paste")
        name = st.text_input("Name", key="own_name", placeholder="my-text")
        ready = file is not None or pasted.strip() != ""
        content = file.getvalue() if file is not None else pasted.encode("utf-8")
        suggested = file.name.rsplit(".", 1)[0] if file is not None else "my-text"
        st.button(
            "Add and choose it",
            disabled=not ready,
            key="own_add",
            on_click=_add,
            args=(name.strip() or suggested, content, field_key),
        )
        show_mistakes(st.session_state.pop("own_mistakes", []))


def _add(name: str, content: bytes, field_key: str) -> None:
    try:
        corpus = add_corpus(name, content)
    except LabError as error:
        st.session_state["own_mistakes"] = sentences(error)
        return
    st.session_state[field_key] = corpus.name
    st.session_state["own_paste"] = ""
    st.session_state[_OPEN] = False
