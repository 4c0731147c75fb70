"""What makes the host wait for the device, found by watching the operators that are called on fake tensors."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

aten, _make_tensor = torch.ops.aten, torch.tensor
_SIZED_BY_VALUES = (
    aten.nonzero.default, aten.masked_select.default, aten.unique_dim.default, aten._unique2.default,
    aten.unique_consecutive.default, aten.bincount.default, aten.equal.default, aten.repeat_interleave.Tensor,
)  # fmt: skip
"""The host must know values of the input before it can say what comes out."""
_INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class HostReads(TorchDispatchMode):
    """Lists what would wait for a CUDA device. Whatever is read of the device is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        """Each as "operator at file:line"."""

    def __enter__(self) -> HostReads:
        self._tolist = FakeTensor.tolist
        FakeTensor.tolist = lambda tensor: self._read_list(tensor)  # its own reads number by number
        torch.tensor = _tensor  # of a fake tensor it cannot be told whether it is pinned
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        FakeTensor.tolist, torch.tensor = self._tolist, _make_tensor
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for what in _waits(func, args, kwargs):
            self._note(what)
        if func is aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return 0.0 if args[0].dtype.is_floating_point else 0
        if func is aten._to_copy.default and _is_cuda(args[0]) and _to(args, kwargs).type == "cpu":
            with _disable_current_modes():  # a tensor with values, for what follows on the host
                return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return func(*args, **kwargs)

    def _read_list(self, tensor: torch.Tensor) -> Any:
        if _is_cuda(tensor):
            self._note("tolist")
        with _disable_current_modes():
            return torch.zeros(tensor.shape, dtype=tensor.dtype).tolist()

    def _note(self, what: str) -> None:
        frames = traceback.extract_stack()
        own, theirs = ([f for f in frames if folder in f.filename] for folder in ("/warmup/", "/transformers/"))
        frame = (theirs or own or frames)[-1]
        self.found.append(f"{what} at {'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}")


def _waits(func: Any, args: Any, kwargs: Any) -> Iterator[str]:
    """What of a call would wait for the device, in words."""
    if func is aten._to_copy.default:
        source, target = args[0].device.type, _to(args, kwargs).type
        if source != target and not (target == "cuda" and kwargs.get("non_blocking") and _is_pinned(args[0])):
            yield f"copy {source} to {target}"
    elif func is aten.copy_.default and args[0].device.type != args[1].device.type and args[1].ndim:
        yield f"copy {args[1].device.type} to {args[0].device.type}"
    if not any(_is_cuda(leaf) for leaf in tree_leaves((args, kwargs))):
        return
    if func is aten._local_scalar_dense.default or func in _SIZED_BY_VALUES:
        yield func.overloadpacket.__name__
    elif func in _INDEXING:
        indices = [index for index in args[1] if index is not None]
        yield from (f"index of {index.dtype}" for index in indices if index.dtype in (torch.bool, torch.uint8))
        yield from ("index on the host" for index in indices if not _is_cuda(index))


def _is_cuda(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "cuda"


def _is_pinned(tensor: torch.Tensor) -> bool:
    with _disable_current_modes():
        return not isinstance(tensor, FakeTensor) and tensor.is_pinned()


def _tensor(*args: Any, **kwargs: Any) -> torch.Tensor:
    with _disable_current_modes() if kwargs.get("pin_memory") else nullcontext():
        return _make_tensor(*args, **kwargs)


def _to(args: Any, kwargs: Any) -> torch.device:
    return torch.device(kwargs.get("device") or args[0].device)
