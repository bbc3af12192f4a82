"""Counting memory: every storage that an operation makes, when it is born and when the last one lets go of it.

Fake tensors have a shape, a dtype and an autograd history like real ones, but no numbers. Running a training step
on them takes milliseconds, and Python frees them when the real ones would be freed. So the count is not a formula about
the step: it is the step, with the arithmetic left out.
"""

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from lab.forecast import patience
from lab.forecast.kinds import Kind
from lab.forecast.rules import DeviceRules

_OURS = str(Path(__file__).parent.parent) + "/"
_NOT_THE_STEP = str(Path(__file__).parent) + "/"
_LIBRARIES = ("/transformers/models/", "/transformers/integrations/", "/peft/tuners/")
_CHECK_EVERY = 64  # operations: a few milliseconds
_DEVICE_OF = torch.ops.prim.device.default
_NUMBER_OF = torch.ops.aten._local_scalar_dense.default
_COPY_OF = torch.ops.aten._to_copy.default
_aten = torch.ops.aten
_PICK = _aten.index.Tensor
_PUT_AT = _aten.index_put.default
_IN_PLACE = frozenset(
    (_aten.mul_.Tensor, _aten.add_.Tensor, _aten.sub_.Tensor, _aten.exp_.default, _aten.copy_.default,
     _aten.zero_.default, _aten.fill_.Scalar, _aten.bernoulli_.float, _aten.scatter_add_.default)
)  # fmt: skip


@dataclass(frozen=True)
class Site:
    """A line of code."""

    file: str
    """Relative to the repository for our own code, e.g. "lab/models/gpt.py"."""
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Place:
    """Where in the step an operation stands."""

    phase: str
    """forward, backward, update, evaluation, generation, checkpoint, or set-up."""
    micro_batch: int
    layer: int | None
    """The block it belongs to; None outside of the blocks."""
    module: str
    """Path of the innermost module, e.g. "trf_blocks.2.att"; empty outside of the model."""
    site: Site | None
    """In the backward pass: the line of the *forward* pass whose gradient is being computed."""


@dataclass(slots=True)
class Storage:
    """One piece of memory."""

    bytes: int
    birth: int
    """Number of the operation that made it."""
    kind: Kind | None
    """None as long as only its later life can tell."""
    shape: tuple[int, ...]
    is_recomputed: bool = False
    death: int | None = None
    """Number of the last operation that still found it alive; None: it outlives the replay."""


@dataclass
class Log:
    """What happened: operations in order, and the storages they made."""

    places: list[Place] = field(default_factory=list)
    workspaces: list[int] = field(default_factory=list)
    """Bytes that each operation's kernel holds only while it runs."""
    storages: list[Storage] = field(default_factory=list)
    trained_matrices: set[tuple[int, ...]] = field(default_factory=set)
    """Shapes of output layers that train: a result of such a shape in the loss is a gradient."""


class StorageTracker(TorchDispatchMode):
    """Follows all storages made by operations on fake tensors while it is entered (inside a FakeTensorMode)."""

    def __init__(self, rules: DeviceRules):
        super().__init__()
        self.rules = rules
        self.log = Log()
        self.phase = "set-up"
        self.micro_batch = 0
        self._known: dict[int, Storage] = {}
        self._watch: dict[int, weakref.ref] = {}
        self._modules: list[str] = []
        self._forward_places: dict[int, tuple[int | None, str, Site | None]] = {}
        self._last_layer: int | None = None
        self._vocabulary: int | None = None
        self._operations = 0
        self.counted = 0
        """Positions of a micro-batch that are learnt: how many a mask of them would pick, if it had numbers."""

    # -- what the replay tells ----------------------------------------------------------------------------

    def begin_forward(self, micro_batch: int) -> None:
        """A forward pass begins. It ends with the first operation of a backward pass, which tells itself."""
        self.phase, self.micro_batch, self._last_layer = "forward", micro_batch, None

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Name what happens inside."""
        before, self.phase, self._last_layer = self.phase, phase, None
        try:
            yield
        finally:
            self.phase, self._last_layer = before, None

    @contextmanager
    def inside(self, module: str) -> Iterator[None]:
        """Count what is made in it to a module that has not been entered."""
        self._modules.append(module)
        try:
            yield
        finally:
            self._modules.pop()

    def follow_modules(self, model: nn.Module, vocabulary: int) -> list[RemovableHandle]:
        """Know which module is at work. Hooks on this model only: global ones would see a training run too.

        Returns:
            What takes the hooks away again.
        """
        self._vocabulary = vocabulary
        hooks: list[RemovableHandle] = []
        for name, module in model.named_modules():
            if name:
                hooks.append(module.register_forward_pre_hook(self._enter(name)))
                hooks.append(module.register_forward_hook(self._leave, always_call=True))
        for parameter in model.parameters():
            if parameter.requires_grad:
                if parameter.dim() > 1 and len(parameter) == vocabulary:
                    self.log.trained_matrices.add(tuple(parameter.shape))
                hooks.append(parameter.register_post_accumulate_grad_hook(lambda p: self.mark(p.grad, "gradients")))
        return hooks

    def mark(self, tensor: Tensor | None, kind: Kind) -> None:
        """Say what a tensor's storage is. One that nobody has seen yet counts from here on."""
        if tensor is None:
            return
        storage = tensor.untyped_storage()
        known = self._known.get(storage._cdata)
        if known is None:
            self._add(tensor, storage, kind)
        else:
            known.kind = kind

    def leave_out(self, tensor: Tensor) -> None:
        """Do not count a tensor that stands for memory which is not the device's, or not ours."""
        self._known[tensor.untyped_storage()._cdata].bytes = 0

    # -- what torch tells ---------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self._operations += 1
        if self._operations % _CHECK_EVERY == 0:
            patience.check()
        if func is _DEVICE_OF:
            return args[0].fake_device
        if func is _NUMBER_OF:  # `.item()`, but there are no numbers. A loss of 0 is finite, and the step is taken
            return 0.0 if args[0].dtype.is_floating_point else True if args[0].dtype is torch.bool else 1
        if func in _IN_PLACE:  # changes numbers only, and there are none
            self._follow(func, args, ())
            return args[0]
        if func is _PUT_AT and args[3:]:  # real tensors are added to in place; for fakes autograd takes another way
            return args[0]
        result = self._picked(*args) if func is _PICK else func(*args, **(kwargs or {}))
        self._follow(func, args, result)
        return result

    def _picked(self, tensor: Tensor, indices: list[Tensor | None]) -> Tensor:
        """`tensor[indices]`; where a mask picks positions, as many as are known to be learnt."""
        mask = indices[0]
        if mask is None or mask.dtype is not torch.bool:
            return _PICK(tensor, indices)
        return torch.empty((self.counted, *tensor.shape[mask.dim() :]), dtype=tensor.dtype)

    def _follow(self, func: Any, args: tuple, result: Any) -> None:
        """Count what an operation has made."""
        new = [(tensor, storage) for tensor in _tensors(result) if (storage := self._unseen(tensor)) is not None]
        workspace = self.rules.workspace(func, args, result)
        if not new and not workspace:
            return
        self.log.places.append(self._place())
        self.log.workspaces.append(workspace)
        kind: Kind | None = None
        if func is _COPY_OF and (source := self._known.get(args[0].untyped_storage()._cdata)) is not None:
            kind = "weight_copies" if source.kind in ("weights", "adapters") else None
        for tensor, storage in new:
            self._add(tensor, storage, kind)

    def _unseen(self, tensor: Tensor) -> torch.UntypedStorage | None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._known or tensor.device.type == "meta":
            return None
        return storage

    def _add(self, tensor: Tensor, storage: torch.UntypedStorage, kind: Kind | None) -> None:
        size = self.rules.rounded(storage.nbytes())
        if size == 0:
            return
        shape = tuple(tensor.shape)
        if kind is None and self._vocabulary in shape[-1:] and tensor.dtype.is_floating_point and len(shape) > 1:
            kind = "logits"
        recomputed = bool(self._modules) and torch._C._current_graph_task_id() != -1
        entry = Storage(size, max(0, len(self.log.places) - 1), kind, shape, recomputed)
        key = storage._cdata
        self._known[key] = entry
        self._watch[key] = weakref.ref(storage, self._freed(key))
        self.log.storages.append(entry)

    def _freed(self, key: int) -> Callable[[object], None]:
        def freed(_: object) -> None:
            self._known.pop(key).death = len(self.log.places) - 1
            del self._watch[key]

        return freed

    # -- where we are -------------------------------------------------------------------------------------

    def _place(self) -> Place:
        if torch._C._current_graph_task_id() == -1:
            place = self._here()
            self._forward_places[torch._C._autograd._get_sequence_nr() - 1] = place
            return Place(self.phase, self.micro_batch, *place)
        self.phase = "update"  # what comes after the last backward pass; another forward pass says so itself
        if self._modules:  # gradient checkpointing computes a block again
            place = self._here()
            self._forward_places[torch._C._autograd._get_sequence_nr() - 1] = place
        else:
            node = torch._C._current_autograd_node()
            number = node._sequence_nr() if node is not None else -1
            place = self._forward_places.get(number, (self._last_layer, "", _site()))
        self._last_layer = place[0]
        return Place("backward", self.micro_batch, *place)

    def _here(self) -> tuple[int | None, str, Site | None]:
        module = self._modules[-1] if self._modules else ""
        return _layer(module), module, _site()

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(*_: object) -> None:
            self._modules.append(name)

        return enter

    def _leave(self, *_: object) -> None:
        self._modules.pop()


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, (tuple, list)):
        for item in result:
            yield from _tensors(item)


def _layer(module: str) -> int | None:
    """The number in a module's path: "trf_blocks.3.att" -> 3."""
    return next((int(part) for part in module.split(".") if part.isdigit()), None)


def _site() -> Site | None:
    """The innermost line of the step's code on the stack: ours, or that of the model's library."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_OURS) and not name.startswith(_NOT_THE_STEP):
            return Site("lab/" + name.removeprefix(_OURS), frame.f_lineno)
        library = next((mark for mark in _LIBRARIES if mark in name), None)
        if library is not None:
            return Site(library.strip("/") + "/" + name.split(library)[1], frame.f_lineno)
        frame = frame.f_back
    return None
