"""From a run or a checkpoint to the pages that look inside it."""

from app.ui.looking import LOOK_KEY
from app.ui.model_choice import MODEL_KEY, STEP_KEY
from app.ui.navigation import link


def open_links(model: str, step: int | None = None, *, short: bool = False) -> None:
    """Links to Attention and Probing with this model chosen; the person has asked, so it is opened at once.

    Args:
        model: a run's id, a model's name, or a folder.
        step: of a checkpoint; the newest state when left out.
        short: where there is little room.
    """
    query = {MODEL_KEY: model, LOOK_KEY: "1", **({} if step is None else {STEP_KEY: str(step)})}
    for page, title in (("attention", "Attention"), ("probing", "Probing")):
        link(page, title if short else f"Open in {title}", **query)
