"""`lab generate`: let a run write."""

import argparse
from typing import TYPE_CHECKING

from lab.cli.commands import Commands
from lab.cli.output import Outcome

if TYPE_CHECKING:
    from lab.sessions import GeneratedPiece


def add(commands: Commands) -> None:
    parser = commands.add("generate", generate, "Let a checkpoint of a run continue a text, token by token.")
    parser.add_argument("--run", dest="run_text", required=True, metavar="RUN", help="id or name of the run")
    parser.add_argument("--step", type=int, metavar="S", help="which checkpoint; the newest when left out")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="the text to go on from")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        metavar="X",
        help="0: always the likeliest token; 1: as learned (default 0.8)",
    )
    parser.add_argument("--top-k", type=int, metavar="N", help="choose among the N likeliest tokens only")
    parser.add_argument(
        "--top-p", type=float, metavar="X", help="choose among the likeliest tokens that together reach probability X"
    )
    parser.add_argument("--max-new-tokens", type=int, default=200, metavar="N", help="tokens to write (default 200)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same text (default 0)")
    parser.add_argument(
        "--no-stop-at-end", action="store_true", help="go on when the model says that the text has ended"
    )


def generate(args: argparse.Namespace) -> Outcome:
    from lab.models.sampling import Sampling
    from lab.rundir import find_run
    from lab.sessions import open_session

    sampling = Sampling(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        max_new_tokens=args.max_new_tokens,
        seed=args.seed,
        stop_at_end=not args.no_stop_at_end,
    )
    run_id = find_run(args.run_text).run_id
    session = open_session(run_id if args.step is None else f"{run_id}@{args.step}")
    pieces: list[GeneratedPiece] = []
    for piece in session.generate(args.prompt, sampling):
        if not args.json:  # as it comes: that is the point of watching
            print(piece.text if pieces else args.prompt + piece.text, end="", flush=True)
        pieces.append(piece)
    if not args.json:
        print("" if pieces else args.prompt)
    return Outcome(
        {
            "run_id": run_id,
            "step": session.step,
            "prompt": args.prompt,
            "text": "".join(piece.text for piece in pieces),
            "tokens": [{"id": piece.token_id, "probability": piece.probability} for piece in pieces],
            "seed": args.seed,
        }
    )
