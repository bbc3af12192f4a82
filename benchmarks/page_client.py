"""An open page without a browser: it speaks Streamlit's protocol, asks for each part that polls as often as a browser
would, reads the answers and draws nothing.

What a training loses to the app and what it loses to the browser's drawing are two things. On a person's machine the
second takes other cores; on a machine of two it takes the training's own.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect


class PageClient:
    """One page of the app, open until its task is cancelled. `polls` counts the parts that were drawn
    anew, `most_parts` says how many looked again by themselves at their most: with a live run, not only the strip.
    """

    def __init__(self, port: int, page: str):
        self.polls = 0
        self.most_parts = 0
        self._address = f"ws://127.0.0.1:{port}/_stcore/stream"
        self._page = page
        self._script = ""
        self._timers: dict[str, asyncio.Task[None]] = {}

    async def stay_open(self) -> None:
        async with connect(self._address, subprotocols=["streamlit"], max_size=None) as socket:  # type: ignore[list-item]
            await self._ask(socket)
            async for data in socket:
                assert isinstance(data, bytes)
                message = ForwardMsg.FromString(data)
                kind = message.WhichOneof("type")
                if kind == "new_session":
                    if not message.metadata.run.fragment_ids:
                        self._forget(*list(self._timers))  # a page laid out anew says again what polls
                elif kind == "navigation":  # which page the entry script has chosen
                    self._script = message.navigation.page_script_hash
                elif kind == "auto_rerun":
                    poll = message.auto_rerun
                    self._forget(poll.fragment_id)
                    task = asyncio.create_task(self._repeat(socket, poll.fragment_id, poll.interval))
                    self._timers[poll.fragment_id] = task
                    self.most_parts = max(self.most_parts, len(self._timers))
                elif kind == "stop_auto_rerun":
                    self._forget(*message.stop_auto_rerun.fragment_ids)
                elif (
                    kind == "script_finished"
                    and message.script_finished == ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY
                ):
                    self.polls += 1

    async def _ask(self, socket: ClientConnection, fragment: str = "") -> None:
        message = BackMsg()
        message.rerun_script.page_script_hash = self._script
        if not self._script:
            message.rerun_script.page_name = self._page
        if fragment:
            message.rerun_script.fragment_id = fragment
            message.rerun_script.is_auto_rerun = True
        message.rerun_script.widget_states.SetInParent()
        await socket.send(message.SerializeToString())

    async def _repeat(self, socket: ClientConnection, fragment: str, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            await self._ask(socket, fragment)

    def close(self, page: "asyncio.Task[None]") -> None:
        self._forget(*list(self._timers))
        page.cancel()

    def _forget(self, *fragments: str) -> None:
        for fragment in fragments:
            if (task := self._timers.pop(fragment, None)) is not None:
                task.cancel()


@contextmanager
def page_open(port: int, page: str) -> Iterator[PageClient]:
    """A page that is open for the length of the block, in a thread of its own."""
    client = PageClient(port, page)
    loop = asyncio.new_event_loop()
    task = loop.create_task(client.stay_open())

    def run() -> None:
        with suppress(asyncio.CancelledError):  # so the block's end tells it
            loop.run_until_complete(task)

    thread = threading.Thread(target=run, name="page", daemon=True)
    thread.start()
    try:
        yield client
        assert not task.done(), f"the page was closed by the app: {task}"
    finally:
        loop.call_soon_threadsafe(client.close, task)
        thread.join(10)
