"""The top of a run: its name and state, how far it is, and the figures that matter, in plain words."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import streamlit as st

from app.ui import words
from app.ui.actions import draw_actions
from app.ui.messages import plain
from app.ui.state import LIVE, get_engine
from app.ui.status_strip import progress_words, share
from lab import paths
from lab.rundir import RunDir
from lab.store import Latest, latest, predictions, run_row, series
from lab.store.cursor import Cursor

if TYPE_CHECKING:
    from lab.engine import RunStatus

BADGES: dict[str, Literal["green", "orange", "blue", "gray", "red"]] = {
    "running": "green",
    "paused": "orange",
    "queued": "blue",
    "finished": "gray",
    "stopped": "gray",
    "failed": "red",
    "interrupted": "orange",
}
SAID = {
    "queued": "Waits for the runs before it.",
    "paused": "Paused. It goes on from here, exactly, when you resume it.",
    "stopped": "Stopped before its end. Resume goes on from here, exactly.",
    "interrupted": "The process that trained it ended without a word. Resume goes on from its newest state, exactly.",
}


UNKNOWN = "–"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of the metrics panel."""

    label: str
    value: str
    help: str
    delta: str | None = None
    colour: Literal["inverse", "off"] = "off"
    """inverse: a change is good when it goes down. off: no change is shown in colour."""


def draw_head(cursor: Cursor, run_id: str) -> None:
    """Name, state, buttons, progress, figures, and the guess beside what came."""
    row = run_row(cursor, run_id)
    live = live_status(run_id)
    status = live.status if live else row["status"]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.subheader(plain(row["name"]), anchor=False, width="content")
        st.badge(status, color=BADGES.get(status, "gray"))
        draw_actions(run_id, status, place="head")
    st.caption(about(row))
    newest = latest(cursor, run_id)
    draw_progress(row, newest, live, status)
    figures = metrics_panel(newest, series(cursor, run_id, "val/loss"))
    with st.container(horizontal=True, gap="medium"):
        for figure in figures:
            st.metric(
                figure.label,
                figure.value,
                figure.delta,
                delta_color=figure.colour,
                delta_arrow="auto" if figure.colour == "inverse" else "off",
                help=figure.help,
                width=132,
            )
    vocab_size = vocabulary(row["config"])
    said = in_plain_words(newest, vocab_size)
    guess = guess_words(predictions(cursor, run_id), newest, finished=status not in LIVE)
    if said or guess:
        st.caption("  \n".join(part for part in (said, guess) if part))


def about(row: Mapping[str, Any]) -> str:
    """What is trained on what: corpus, tokenizer, parameters, and the parent of a fork."""
    config = row["config"]
    parts = _learns(config) if config else []
    if row["n_params"]:
        trained = row["n_trainable"]
        beside = f"{words.count(trained)} trained beside " if trained and trained < row["n_params"] else ""
        parts.append(f"{beside}{words.count(row['n_params'])} parameters")
    if row["device"]:
        parts.append(f"{config['compute']['precision']} on {row['device']}")
    if row["parent_run_id"]:
        parts.append(f"fork of {row['parent_run_id']} at step {row['parent_step']:,}")
    return " · ".join(parts)


def _learns(config: Mapping[str, Any]) -> list[str]:
    data, model = config["data"], config["model"]
    if config.get("kind") == "finetune":
        rank = f", rank {model['rank']}" if model["method"] != "full" else ""
        return [plain(str(model["model"])), f"learns {plain(str(data['dataset']))}", f"{model['method']}{rank}"]
    return [plain(str(data["corpus"])), f"tokenizer {data['tokenizer']}"]


def draw_progress(row: Mapping[str, Any], newest: Mapping[str, Latest], live: "RunStatus | None", status: str) -> None:
    """The bar with the time left; for a run that ended, how it did."""
    if status == "failed":
        draw_failure(row)
    elif live is not None and status in ("running", "paused"):
        st.progress(share(live), text=progress_words(live))
    else:
        step = max((value.step for value in newest.values()), default=0)
        of = f" of {row['total_steps']:,}" if row["total_steps"] else ""
        done = f"Step {step:,}{of}." if newest else ""
        st.caption(f"{done} {SAID.get(status, '')}".strip())


def draw_failure(row: Mapping[str, Any]) -> None:
    """The sentence; the traceback folded below."""
    st.error(plain(row["error"] or "The run failed without saying why."))
    traceback = RunDir(paths.outputs() / row["run_id"]).traceback_path
    if traceback.exists():
        with st.expander("Technical text"):
            st.code(traceback.read_text(encoding="utf-8", errors="replace"), language=None, wrap_lines=True)


def live_status(run_id: str) -> "RunStatus | None":
    """What the engine says of a run that is running or waiting; None for one that is not."""
    status = get_engine().status()
    for run in (status.running, *status.queue, *status.others):
        if run is not None and run.run_id == run_id:
            return run
    return None


def metrics_panel(newest: Mapping[str, Latest], validation: pd.DataFrame) -> list[Figure]:
    """The figures that a person looks at, in the order in which they matter.

    All six are there from the start, with a dash for what nobody has measured yet: nothing jumps when it comes.
    """
    bits, train = newest.get("val/bits_per_byte"), newest.get("train/loss")
    speed, mfu = newest.get("train/tokens_per_second"), newest.get("train/mfu")
    memory = newest.get("system/memory_gib")
    return [
        validation_figure(newest.get("val/loss"), validation),
        forgetting_figure(newest["forget/loss"], newest.get("forget/accuracy"))
        if bits is None and "forget/loss" in newest
        else Figure(
            label="Bits per byte",
            value=words.loss(bits.value) if bits else UNKNOWN,
            help="The same loss per byte of text, in bits: the figure to compare runs with different tokenizers by.",
        ),
        Figure(
            label="Training loss",
            value=words.loss(train.value) if train else UNKNOWN,
            help="Nats per token on the newest batch. One batch is a small piece of text, so it jumps. Well below the "
            "validation loss: the model has begun to learn its text by heart.",
        ),
        Figure(
            label="Tokens/s",
            value=words.count(speed.value) if speed else UNKNOWN,
            help="Tokens of text that training reads in a second, without evaluations.",
        ),
        Figure(
            label="MFU",
            value=f"{mfu.value:.0%}" if mfu else UNKNOWN,
            help="Model FLOPs utilisation: the share of the fastest matrix product measured on this machine that the "
            "training reaches. The rest goes to everything that is not a large matrix product, and to waiting.",
        ),
        Figure(
            label="Memory, peak",
            value=words.data(memory.value * 2**30) if memory else UNKNOWN,
            help="Most memory taken so far: of the whole process on a CPU, of PyTorch's tensors on a GPU.",
        ),
    ]


def forgetting_figure(story: Latest, accuracy: Latest | None) -> Figure:
    """Of a fine-tuning: what it still knows of what it is not trained on."""
    right = f" Simple questions on other matters answered rightly: {accuracy.value:.0%}." if accuracy else ""
    return Figure(
        label="Old story",
        value=words.loss(story.value),
        help=f"Nats per token on a text that fine-tuning never shows: it rises with what is forgotten.{right}",
    )


def validation_figure(loss: Latest | None, validation: pd.DataFrame) -> Figure:
    """The validation loss, with its change since the evaluation before."""
    help = (
        "Nats per token on text that it never trains on: how surprised it is by each next token. Lower is better. "
        "The change is against the evaluation before."
    )
    if loss is None:
        return Figure(label="Validation loss", value=UNKNOWN, delta="not evaluated yet", help=help)
    if len(validation) < 2:
        return Figure(label="Validation loss", value=words.loss(loss.value), delta="first evaluation", help=help)
    change = loss.value - validation["last"].iloc[-2]
    return Figure(
        label="Validation loss", value=words.loss(loss.value), delta=f"{change:+.2f}", colour="inverse", help=help
    )


def in_plain_words(newest: Mapping[str, Latest], vocab_size: int | None) -> str:
    """What the validation loss means."""
    loss = newest.get("val/loss")
    if loss is None:
        return "The first evaluation is made before the first step: what the untrained model knows, which is nothing."
    among = f"as if it chose each next token among {words.perplexity(loss.value)} equally likely ones (perplexity)"
    if not vocab_size:
        return f"It is as unsure {among}."
    nothing = log(vocab_size)
    if loss.value > 1.05 * nothing:
        return (
            f"Worse than knowing nothing: {among}, and there are only {vocab_size:,}. Is the learning rate too large?"
        )
    if loss.value > 0.98 * nothing:
        return f"It knows nothing yet: {among}, and there are {vocab_size:,} (loss {nothing:.2f})."
    return f"It is as unsure {among}; knowing nothing would be {vocab_size:,} (loss {nothing:.2f})."


def guess_words(guesses: pd.DataFrame, newest: Mapping[str, Latest], *, finished: bool) -> str:
    """The person's guess beside what came."""
    mine = guesses[(guesses["who"] == "person") & (guesses["metric"] == "val/loss")] if len(guesses) else guesses
    if mine.empty:
        return ""
    guess = mine.iloc[-1]
    around = f" (from {guess['low']:g} to {guess['high']:g})" if guess["low"] < guess["high"] else ""
    said = f"Your guess: {guess['predicted']:g}{around}."
    loss = newest.get("val/loss")
    if loss is None:
        return said
    inside = guess["low"] <= loss.value <= guess["high"]
    if not finished:
        return f"{said} Now: {words.loss(loss.value)}."
    off = loss.value - guess["predicted"]
    verdict = "within your range" if inside else f"{abs(off):.2f} {'above' if off > 0 else 'below'} your guess"
    return f"{said} It came to {words.loss(loss.value)}: {verdict}."


def person_guess(guesses: pd.DataFrame) -> float | None:
    """The expected validation loss, for a line in the chart."""
    if guesses.empty:
        return None
    mine = guesses[(guesses["who"] == "person") & (guesses["metric"] == "val/loss")]
    return None if mine.empty else float(mine.iloc[-1]["predicted"])


def vocabulary(config: Mapping[str, Any] | None) -> int | None:
    """The vocabulary of a stored config; None for a model that somebody else made: its size says nothing here."""
    return None if not config else config["model"].get("vocab_size")
