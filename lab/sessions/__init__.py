"""One handle to every model the lab knows: its tokens, its logits, text written by it, and what happens inside."""

from lab.sessions.opening import open_session
from lab.sessions.session import GeneratedPiece, ModelSession
from lab.sessions.shelf import Shelf, shelf

__all__ = ["GeneratedPiece", "ModelSession", "Shelf", "open_session", "shelf"]
