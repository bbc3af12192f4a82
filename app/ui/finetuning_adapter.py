"""What the adapter did: how far each layer moved, in how many directions, and whether there was room."""

import altair as alt
import pandas as pd
import streamlit as st

from app.ui import state, words
from app.ui.messages import plain, speaking
from lab import store
from lab.config import FineTuneConfig
from lab.files import read_json
from lab.finetuning.adapter_watch import BASE_NORM, TEXT
from lab.finetuning.capacity import SOURCE, capacity, checked
from lab.finetuning.delta import LayerDelta, layer_deltas, place_of
from lab.models.checkpoints import find_checkpoint, list_checkpoints, read_weights
from lab.rundir import find_run
from lab.sessions.opening import ADAPTER_FOLDER
from lab.store.looks import place_figures


def draw_adapter(run_id: str) -> None:
    """Norms and ranks of all layers, the singular values of one, and the capacity."""
    run = find_run(run_id)
    config = run.config_as(FineTuneConfig)
    _draw_capacity(run_id)
    if not config.has_adapter:
        st.caption("Every weight of this run was trained: there is no adapter to take apart.")
        return
    if not list_checkpoints(run):
        st.caption("The adapter can be looked at from the first kept state on.")
        return
    with speaking():
        found = deltas_of(run_id, find_checkpoint(run).step)
        _draw_layers(found, config)


@st.cache_data(max_entries=8, show_spinner="Taking the adapter apart …")
def deltas_of(run_id: str, step: int) -> list[LayerDelta]:
    """Of the state of this step.

    Raises:
        LabError: it is gone or damaged.
    """
    run = find_run(run_id)
    tensors = {name.replace(".default", ""): value for name, value in read_weights(find_checkpoint(run, step)).items()}
    own = state.read(place_figures, run_id, BASE_NORM, TEXT)
    settings = read_json(run.path / ADAPTER_FOLDER / "adapter_config.json")
    return layer_deltas(tensors, settings, lambda module: own.get(place_of(module)))


def layer_table(found: list[LayerDelta]) -> pd.DataFrame:
    """One row per layer, for figures and for whoever takes it along."""
    return pd.DataFrame(
        [
            {
                "module": one.module,
                "layer": one.layer,
                "part": one.part,
                "norm": one.norm,
                "relative": one.relative,
                "effective rank": one.effective_rank,
                "rank": one.rank,
            }
            for one in found
        ]
    )


def heat(table: pd.DataFrame, value: str, title: str) -> alt.Chart:
    """A square for each layer and part."""
    return (
        alt.Chart(table)
        .mark_rect()
        .encode(
            alt.X("layer:O", title="layer"),
            alt.Y("part:N", title=None),
            alt.Color(f"{value}:Q", title=title, scale=alt.Scale(scheme="viridis", domainMin=0)),
            tooltip=[
                alt.Tooltip("module:N"),
                alt.Tooltip("norm:Q", format=".3g", title="‖ΔW‖"),
                alt.Tooltip("relative:Q", format=".2%", title="‖ΔW‖ / ‖W‖"),
                alt.Tooltip("effective rank:Q", format=".1f"),
            ],
        )
        .properties(height=alt.Step(22))
    )


def _draw_layers(found: list[LayerDelta], config: FineTuneConfig) -> None:
    table = layer_table(found)
    used = table["effective rank"].mean()
    st.markdown(
        f"On average a layer uses **{used:.1f} of {config.model.rank}** directions (effective rank). "
        + (
            "Far below the rank: a smaller one would have learnt the same."
            if used < 0.4 * config.model.rank
            else "Whether all of them matter, a run with half the rank tells."
        )
    )
    if config.model.dora:
        st.caption("DoRA changes the length of each weight vector, too; that is not part of ΔW = scale · B · A here.")
    left, right = st.columns(2, gap="large")
    with left:
        _draw_relative(table)
    with right:
        st.altair_chart(heat(table, "norm", "‖ΔW‖"), width="stretch")
        st.caption("How far each layer was moved: the length (Frobenius norm) of its change ΔW = scale · B · A.")
    left, right = st.columns(2, gap="large")
    with left:
        st.altair_chart(heat(table, "effective rank", "effective rank"), width="stretch")
        st.caption("In how many directions: exp of the entropy of its singular values (Roy and Vetterli 2007).")
    with right:
        _draw_singular_values(found)


def _draw_relative(table: pd.DataFrame) -> None:
    known = table.dropna(subset=["relative"])
    if known.empty:
        st.caption("How long each layer's own W is was not recorded when this run trained, so ΔW stands alone.")
        return
    st.altair_chart(heat(known, "relative", "‖ΔW‖ / ‖W‖"), width="stretch")
    most = known.loc[known["relative"].idxmax()]
    st.caption(
        f"The same against the layer's own weights: on average {known['relative'].mean():.1%} of ‖W‖, most in layer "
        f"{most['layer']}, {plain(most['part'])}: {most['relative']:.1%}. A few percent change what a model says; "
        "near 100 % little of the layer is what it was."
    )


def _draw_singular_values(found: list[LayerDelta]) -> None:
    names = [one.module for one in sorted(found, key=lambda one: -one.norm)]
    chosen = st.selectbox(
        "Singular values of", names, key="ft_delta_layer", help="The layer that moved most comes first."
    )
    one = next(one for one in found if one.module == chosen)
    padded = [*one.singular_values, *[0.0] * one.rank][: one.rank]
    values = pd.DataFrame({"direction": range(1, one.rank + 1), "value": padded})
    figure = alt.Chart(values).mark_bar().encode(
        alt.X("direction:O", title="direction"), alt.Y("value:Q", title="singular value of ΔW"),
        tooltip=["direction", "value"],
    )  # fmt: skip
    st.altair_chart(figure.properties(height=200), width="stretch")
    st.caption(
        f"Effective rank {one.effective_rank:.1f} of {one.rank}. A steep fall says that few directions do the work."
    )


def _draw_capacity(run_id: str) -> None:
    with state.cursor() as cursor:
        row = store.run_row(cursor, run_id)
        losses = store.series(cursor, run_id, "val/loss")
    data = (find_run(run_id).info().get("resolved") or {}).get("data")
    if not row["n_trainable"] or not data:
        return
    first = None if losses.empty else float(losses["last"].iloc[0])
    found = capacity(int(row["n_trainable"]), int(data["label_tokens"]), first)
    said = found.sentence
    if first is not None and len(losses) > 1:
        said += f"  \n{checked(found, first, float(losses['last'].iloc[-1]))}"
    st.markdown(f"**Room in the adapter** · {words.count(row['n_trainable'])} trainable parameters", help=SOURCE)
    st.caption(said)
