import json

import numpy as np
import pandas as pd

from app.ui.live_chart import Chart, Line, Look, Marker, Reference, payload, points_table


def points(x: list[float], value: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"x": x, "low": value, "high": value, "value": value})


def test_lines_stand_below_each_other_in_the_order_given() -> None:
    table = points_table([Line(name="a", points=points([0, 1], [4, 3])), Line(name="b", points=points([0], [5]))])
    assert list(table["line"]) == [0, 0, 1]
    assert list(table["value"]) == [4, 3, 5]


def test_points_are_sorted_by_x() -> None:
    table = points_table([Line(name="a", points=points([2, 0, 1], [1, 3, 2]))])
    assert list(table["x"]) == [0, 1, 2]
    assert list(table["value"]) == [3, 2, 1]


def test_what_is_not_finite_is_never_sent() -> None:
    table = points_table([Line(name="a", points=points([0, 1, 2, 3], [4, np.nan, np.inf, 1]))])
    assert list(table["x"]) == [0, 3]


def test_an_empty_chart_has_the_same_columns() -> None:
    full = points_table([Line(name="a", points=points([0], [4]))])
    assert dict(points_table([]).dtypes) == dict(full.dtypes)


def test_the_band_of_a_bucket_is_kept() -> None:
    frame = pd.DataFrame({"x": [8], "low": [1.0], "high": [9.0], "value": [2.0]})
    table = points_table([Line(name="a", points=frame)])
    assert (table["low"][0], table["high"][0]) == (1.0, 9.0)


def test_all_but_the_points_is_plain_json() -> None:
    chart = Chart(
        title="Loss",
        y_label="nats per token",
        lines=[Line(name="train", points=points([0], [4]))],
        group="run-1",
        references=[Reference(y=4.17, label="ln(65)")],
        markers=[Marker(x=3, label="resumed")],
        look=Look(x="tokens", log_x=True, smoothing=0.5),
    )
    sent = payload(chart)
    assert isinstance(sent.pop("points"), pd.DataFrame)
    options = json.loads(json.dumps(sent))["options"]
    assert options["x_label"] == "tokens seen"
    assert options["references"] == [{"y": 4.17, "label": "ln(65)"}]


def test_zoom_is_shared_within_a_run_and_an_axis_only() -> None:
    groups = {
        payload(Chart(title="t", y_label="y", lines=[], group=run, look=Look(x=x)))["options"]["group"]
        for run in ("run-1", "run-2")
        for x in ("step", "seconds")
    }
    assert len(groups) == 4
