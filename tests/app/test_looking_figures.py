"""What is drawn of attention: small pictures, heatmaps, tips and tables, from weights that are known."""

import numpy as np
import pandas as pd
import pytest
import torch

from app.ui.attention_heads import heads_frame, matrix_frame
from app.ui.head_grid import HIDDEN, SIZE, thumbnails, tips
from app.ui.heatmaps import brightest, layer_heatmap, places, pooled, shorten, ticks, token_heatmap
from app.ui.words_of_looking import parquet


def causal(length: int, seed: int = 0) -> torch.Tensor:
    """[1, 2, pos, pos], rows that sum to 1 over what a query sees."""
    scores = torch.randn(1, 2, length, length, generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf).softmax(-1)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 128, 512])
def test_a_small_picture_hides_exactly_the_future(length: int) -> None:
    pictures = thumbnails([causal(length)])
    size = min(length, SIZE)
    assert pictures.shape == (1, 2, size, size)
    hidden = pictures == HIDDEN
    assert not hidden[..., np.tril_indices(size)[0], np.tril_indices(size)[1]].any()
    if length in (2, 31, 32, 128, 512):  # pooled evenly
        assert hidden[..., np.triu_indices(size, 1)[0], np.triu_indices(size, 1)[1]].all()


def test_a_thin_line_stays_in_the_small_picture_of_a_long_text() -> None:
    weights = torch.zeros(1, 1, 512, 512)
    weights[..., 300, 7] = 1.0
    picture = thumbnails([weights])[0, 0]
    assert picture[300 * SIZE // 512, 0] == 254
    assert (picture[picture != HIDDEN] > 0).sum() == 1


def test_a_weight_of_one_in_a_hundred_can_be_told_from_none() -> None:
    weights = torch.zeros(1, 1, 4, 4)
    weights[..., 3, 1] = 0.01
    assert thumbnails([weights])[0, 0, 3, 1] == 25  # a tenth of the scale: the root of the weight


def test_rows_that_have_no_choice_do_not_take_the_colours() -> None:
    weights = np.eye(8)  # each looks at itself
    weights[4:] = 0.1
    assert brightest(weights) == pytest.approx(0.1)
    weights[6, 0] = 0.9
    assert brightest(weights) == pytest.approx(0.9)
    assert brightest(weights, skip_first_key=True) == pytest.approx(0.1)


def test_the_large_picture_has_the_tokens_on_both_axes_and_nothing_in_the_future() -> None:
    tokens = ["␣the", "<b>", "␣the"]
    figure = token_heatmap(causal(3)[0, 0].numpy(), tokens)
    heat = figure.data[0]
    assert list(heat.x) == list(heat.y) == ["0 ␣the", "1 &lt;b&gt;", "2 ␣the"]
    assert np.isnan(np.array(heat.z, dtype=float)[0, 1:]).all()
    assert heat.zmin == 0


def test_one_token_can_be_drawn() -> None:
    figure = token_heatmap(np.ones((1, 1)), ["a"])
    assert np.array(figure.data[0].z).shape == (1, 1)


def test_differences_are_centred_at_zero() -> None:
    figure = token_heatmap(np.array([[0.0, 0.0], [-0.4, 0.2]]), ["a", "b"], diverging=True)
    assert figure.data[0].zmin == -figure.data[0].zmax


def test_there_are_never_more_labels_than_fit_and_long_ones_are_cut() -> None:
    tokens = [f"averylongtokenindeed{i}" for i in range(512)]
    axis = ticks(places(tokens), tokens)
    assert len(axis["tickvals"]) <= 60
    assert all(len(label) <= 14 for label in axis["ticktext"])
    assert shorten("short") == "short"


def test_words_in_cells_are_escaped_and_told_in_full() -> None:
    figure = layer_heatmap(
        np.zeros((1, 1)), ["a"], unit="p", text=np.array([["<script>long"]], dtype=object), written=True
    )
    assert figure.data[0].customdata[0][0] == "&lt;script&gt;long"
    assert figure.data[0].text[0][0] == "&lt;scrip…"


def test_a_tip_leaves_out_what_the_text_cannot_tell() -> None:
    stats = {"induction": np.array([[np.nan, 0.5]]), "sink": np.array([[0.25, 0.75]])}
    assert tips(stats, {"induction": "ind", "sink": "sink"}) == ["sink 0.25", "ind 0.50 · sink 0.75"]


def test_tables_to_take_along_name_layers_heads_and_tokens() -> None:
    frame = heads_frame({"induction": np.array([[0.1, 0.2], [0.3, 0.4]])})
    assert frame[["layer", "head"]].values.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    long = matrix_frame(np.array([[1.0, 0.0], [0.3, 0.7]]), ("x", "y"))
    assert long.values.tolist() == [[0, "x", 0, "x", 1.0], [1, "y", 0, "x", 0.3], [1, "y", 1, "y", 0.7]]


def test_a_thin_line_stays_in_the_overview_of_a_long_text() -> None:
    weights = np.zeros((1000, 1000))
    weights[700, 3] = 0.5
    weights[3, 700] = 9.0  # the future counts for nothing
    small, tokens, names = pooled(weights, [f"t{i}" for i in range(1000)], 256)
    assert small.shape == (250, 250)
    assert small[175, 0] == 0.5
    assert (small != 0).sum() == 1
    assert (tokens[175], names[175], names[249]) == ("t700", "700–703 t700 …", "996–999 t996 …")
    less, _, _ = pooled(-weights, tokens * 4, 256)
    assert less[175, 0] == -0.5, "of a difference the sign stays"


def test_the_numbers_of_a_figure_come_as_parquet_with_their_types() -> None:
    from io import BytesIO

    frame = pd.DataFrame({"token": ["␣a", "\N{GRINNING FACE}"], 0: [0.25, np.nan], "layer": [1, 2]})
    read = pd.read_parquet(BytesIO(parquet(frame)))
    assert list(read.columns) == ["token", "0", "layer"]
    assert read["token"].tolist() == ["␣a", "\N{GRINNING FACE}"]
    assert (read["layer"].dtype, read["0"][0]) == (np.int64, 0.25)
