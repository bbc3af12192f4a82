"""`lab chat`: ask a model, or a base with what a fine-tuning taught it."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from lab.cli.commands import Commands
from lab.cli.output import Outcome

if TYPE_CHECKING:
    from lab.finetuning.chat import Reply
    from lab.finetuning.frames import Choice
    from lab.sessions import ModelSession

EPILOG = """examples:
  lab chat --model smollm2-135m --prompt "What is the capital of France?"
  lab chat --adapter parrot                              the tuned model; an empty line or Ctrl-D ends it
  lab chat --adapter parrot --scale 0 --prompt "Hello"   the base model alone, in the same frame"""


def add(commands: Commands) -> None:
    parser = commands.add("chat", chat, "Ask a model, or a base with its adapter.", epilog=EPILOG)
    parser.add_argument("--model", metavar="M", help="a run, a name from `lab models list`, a folder, or a hub id")
    parser.add_argument("--adapter", metavar="RUN", help="a fine-tuning run (RUN or RUN@STEP), or an adapter's folder")
    parser.add_argument("--prompt", metavar="TEXT", help="one question; without it you are asked, turn by turn")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="X", help="of the adapter, from 0 to 1.5 (default 1)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="X",
        help="0: always the likeliest token (default); 1: as learned",
    )
    parser.add_argument("--max-new-tokens", type=int, default=200, metavar="N", help="tokens to write (default 200)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same text (default 0)")
    parser.set_defaults(refuse=parser.error)


def chat(args: argparse.Namespace) -> Outcome:
    from lab.finetuning.chat import reply
    from lab.finetuning.formats import Turn
    from lab.models.sampling import Sampling

    if args.model is None and args.adapter is None:
        args.refuse("give --model, --adapter or both")
    if args.json and args.prompt is None:
        args.refuse("--json answers one question: give --prompt")
    session, template = _open(args.model, args.adapter)
    sampling = Sampling(temperature=args.temperature, max_new_tokens=args.max_new_tokens, seed=args.seed)
    scale = args.scale if args.adapter else 1.0
    turns: list[Turn] = []
    while (question := args.prompt if args.prompt is not None else _asked()) is not None:
        turns.append(Turn("user", question))
        answer = reply(session, turns, sampling, scale=scale, template=template)
        if args.prompt is not None:
            return Outcome(_document(session, args, answer), answer.text)
        print(answer.text, flush=True)
        turns.append(Turn("assistant", answer.text))
    return Outcome({"ref": session.ref, "turns": len(turns)})


def _open(model: str | None, adapter: str | None) -> "tuple[ModelSession, Choice]":
    """The session, and the frame it is asked in: an adapter's own.

    Raises:
        ModelError: the adapter belongs to another model.
    """
    from lab.config import FineTuneConfig
    from lab.errors import ModelError
    from lab.sessions import open_session
    from lab.sessions.opening import adapter_of, resolved, run_of

    if adapter is None:
        assert model is not None
        return open_session(model), "auto"
    found = adapter_of(adapter)
    if model is not None and found is not None and resolved(model) != resolved(found.base):
        raise ModelError(f"{adapter} was trained on {found.base}, not on {model}: leave --model out, or name that one.")
    run = None if found is not None and found.checkpoint is None else run_of(adapter)
    config = run.config() if run is not None else None
    return open_session(adapter), config.data.chat_template if isinstance(config, FineTuneConfig) else "auto"


def _asked() -> str | None:
    """What the person types; None at the end."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip() or None
    except EOFError:
        return None


def _document(session: "ModelSession", args: argparse.Namespace, answer: "Reply") -> dict[str, Any]:
    return {
        "ref": session.ref,
        "prompt": args.prompt,
        "text": answer.text,
        "scale": answer.scale,
        "tokens": [{"id": word.token_id, "probability": word.probability, "kl": word.kl} for word in answer.words],
        "seed": args.seed,
    }
