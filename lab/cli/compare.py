"""`lab compare`: the same text in two models: which heads, which layers, which predictions differ."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.cli import output
from lab.cli.commands import Commands
from lab.cli.output import Outcome

if TYPE_CHECKING:
    from lab.analysis.capture import Capture


def add(commands: Commands) -> None:
    parser = commands.add(
        "compare",
        compare,
        "Let two models read the same text and say where they differ: a base and what was tuned from it, two "
        "checkpoints, or stored captures of them.",
    )
    model = "a run, RUN@STEP, a model's name, folder or hub id, or a capture that was stored"
    parser.add_argument("--base", metavar="M", help=f"{model}; left out: what the tuned one was fine-tuned from")
    parser.add_argument("--tuned", required=True, metavar="M", help=model)
    parser.add_argument("--text", metavar="TEXT", help="what both read; not needed for two stored captures")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "8bit", "4bit"))
    parser.add_argument("--top", type=int, default=10, metavar="N", help="heads and tokens listed (default 10)")


def compare(args: argparse.Namespace) -> Outcome:
    from lab.analysis.heads import head_difference, ranked
    from lab.analysis.residual import compare_branches
    from lab.errors import ModelError

    base, tuned = _both(args)
    _same_tokens(base, tuned)
    one, two = base["capture"], tuned["capture"]
    if not (one.attention and two.attention):
        raise ModelError("A stored capture of a long text keeps the weights of a few heads only: take a shorter text.")
    heads = head_difference(one.attention, two.attention)
    change = compare_branches(one.residual, two.residual)
    layers = [
        {"layer": layer, "attention": float(change.attention[layer]), "feed_forward": float(change.feed_forward[layer])}
        for layer in range(one.n_layers)
    ]
    following = _next_tokens(base, tuned, args.top)
    document: dict[str, Any] = {
        "base": base["ref"],
        "tuned": tuned["ref"],
        "tokens": base["tokens"],
        "checks": {"base": one.check.to_json(), "tuned": two.check.to_json()},
        "largest_head_difference_bits": float(heads.max()),
        "heads": [
            {"layer": layer, "head": head, "jensen_shannon_bits": value}
            for layer, row in enumerate(heads.tolist())
            for head, value in enumerate(row)
        ],
        "layers": layers,
        **following,
    }
    best = "  ".join(f"{head.layer}.{head.head} {head.value:.4f}" for head in ranked(heads)[: args.top])
    text = [
        f"{base['ref']} against {tuned['ref']}, {len(base['tokens'])} tokens: {'|'.join(base['tokens'])}",
        f"Heads that look elsewhere most, in bits (layer.head): {best}",
        "What each branch adds, as a share of what it added before:\n" + output.table(layers),
        f"After the text, KL of the predictions: {following['kl_nats']:.4f} nats\n"
        + output.table(following["next_tokens"]),
    ]
    if following["loss"] is not None:
        text.append("Loss of the text in nats per token: {base:.4f} and {tuned:.4f}".format(**following["loss"]))
    return Outcome(document, "\n\n".join(text))


def _both(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both captures. One after the other: the first model may have to make room for the second."""
    from lab.errors import ModelError
    from lab.models.adapters import base_of_run
    from lab.sessions.opening import adapter_of, run_of

    base = args.base
    if base is None and not _is_stored(args.tuned):
        adapter = adapter_of(args.tuned)
        run = None if adapter is not None else run_of(args.tuned)
        base = adapter.base if adapter is not None else run and base_of_run(run)
    if base is None:
        raise ModelError(f"{args.tuned} was not fine-tuned from a model that is known here: say --base M.")
    return _look(base, args), _look(args.tuned, args)


def _is_stored(ref: str) -> bool:
    return ref.endswith(".safetensors") and Path(ref).is_file()


def _look(ref: str, args: argparse.Namespace) -> dict[str, Any]:
    """A capture with its name, its tokens' labels and what names a token: from a model, or from a file."""
    import torch

    from lab.analysis.stored import load_capture
    from lab.errors import ModelError
    from lab.sessions import shelf

    if _is_stored(ref):
        found, about = load_capture(Path(ref))
        labels = about.get("tokens") or [str(token) for token in found.ids[0].tolist()]
        return {"ref": about.get("model", ref), "capture": found, "tokens": labels, "label": str}
    if args.text is None:
        raise ModelError("There is no text to read: say --text TEXT.")
    session = shelf.get(ref, precision=args.precision)
    found = session.capture(args.text)
    if not found.check.ok:
        raise ModelError(found.check.sentence)
    labels = [session.tokenizer.label(int(token)) for token in found.ids[0]]
    assert isinstance(found.logits, torch.Tensor)
    return {"ref": session.ref, "capture": found, "tokens": labels, "label": session.tokenizer.label}


def _same_tokens(base: dict[str, Any], tuned: dict[str, Any]) -> None:
    from lab.errors import ModelError

    if base["capture"].ids.tolist() != tuned["capture"].ids.tolist():
        raise ModelError(
            f"{base['ref']} and {tuned['ref']} read different tokens, so nothing of them can be laid side by side: "
            "compare two models with the same tokenizer, on the same text."
        )


def _next_tokens(base: dict[str, Any], tuned: dict[str, Any], top: int) -> dict[str, Any]:
    """What both expect after the text, and how well they foresaw the text itself."""
    one, two = (look["capture"].logits[0, -1].double().cpu().log_softmax(-1) for look in (base, tuned))
    change = (two.exp() - one.exp()).abs()
    label = base["label"] if base["label"] is not str else tuned["label"]
    chosen = (change + one.exp() + two.exp()).topk(min(top, len(one))).indices.tolist()
    rows = [
        {"token": label(token), "base": one[token].exp().item(), "tuned": two[token].exp().item()} for token in chosen
    ]
    losses = [_loss(look["capture"]) for look in (base, tuned)]
    loss = None if None in losses else {"base": losses[0], "tuned": losses[1]}
    kl = (one.exp() * (one - two)).sum().clamp(min=0).item()
    return {"next_tokens": rows, "kl_nats": kl, "loss": loss}


def _loss(found: "Capture") -> float | None:
    """Nats per token of the text; None where only the last position's logits were kept, or there is one token."""
    if found.logits.shape[1] != found.ids.shape[1] or found.ids.shape[1] < 2:
        return None
    log_p = found.logits[:, :-1].double().log_softmax(-1)
    return float(-log_p.gather(-1, found.ids[:, 1:, None].to(log_p.device)).mean())
