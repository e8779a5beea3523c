"""A stand-in CUDA device: data stay on the CPU, each storage has a logical device, and what CUDA refuses is refused.

``install`` replaces attributes of torch, so it needs a separate process, in which lolm_plugin is not imported yet.

Tensor methods and factory functions are replaced, and a dispatch mode sees every aten operation, those of the backward
pass included. It checks the logical devices as CUDA's kernels do, marks the results, and counts kernels and
synchronisations. Tensors made inside C++ operators have no known device and fit everything: an error may be missed, but
no legal program is refused. It cannot show numerics, memory, streams, or the limits of real kernels.
"""

import collections
import contextlib
import linecache
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
PACKAGE = "lolm_plugin"
Base: Any = torch._C.TensorBase
aten = torch.ops.aten
real_device = Base.device.__get__
original_to = Base.to

INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
COPIES = {aten.copy_.default, aten._to_copy.default, aten.set_.source_Tensor, aten.copy.default}
SYNCS = {
    aten._local_scalar_dense.default: "item",
    aten.nonzero.default: "nonzero",
    aten._unique2.default: "unique",
    aten.masked_select.default: "masked_select",
    aten.equal.default: "equal",
    aten.repeat_interleave.Tensor: "repeat_interleave",
}
PRODUCTS = {
    aten.mm.default,
    aten.bmm.default,
    aten.addmm.default,
    aten.baddbmm.default,
    aten.mv.default,
    aten.dot.default,
}
# Operators that launch no kernel, besides views.
WITHOUT_KERNEL = {
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.detach.default,
    aten.alias.default,
    aten.lift_fresh.default,
    aten._reshape_alias.default,
    aten._local_scalar_dense.default,
    aten.view.default,
    aten._unsafe_view.default,
}
# Pointwise operators without PyTorch's tag. They accept a CPU tensor of 0 dimensions.
POINTWISE = {
    *("where", "masked_fill", "lerp", "addcmul", "addcdiv", "clamp", "add", "mul", "div", "sub", "fill", "eq", "ne"),
    *("lt", "le", "gt", "ge", "maximum", "minimum", "pow", "index_fill"),
}

launches: collections.Counter[str] = collections.Counter()  # aten operator -> kernels, about one per call
syncs: collections.Counter[str] = collections.Counter()  # "what at which line" -> waits of the CPU for the GPU
kept: list[Any] = []  # libraries of emulated kernels, in force while referenced
_depth = 0  # operators that are running
# Bytes of the results of operators so far. Nothing counts as freed, so a difference is an upper bound of a peak.
allocated = 0
free_memory = 70 * 2**30  # reported to the program; a test may set it


def logical(tensor: Tensor) -> str | None:
    """Return "cuda", "cpu", or None if it is unknown."""
    try:
        return getattr(tensor.untyped_storage(), "logical", None)
    except (RuntimeError, NotImplementedError):
        return None


def mark(tensor: Any, device: torch.device | str) -> Any:
    """Set the logical device of a tensor's storage."""
    if isinstance(tensor, Tensor) and real_device(tensor).type == "cpu":
        with contextlib.suppress(RuntimeError, NotImplementedError):
            tensor.untyped_storage().logical = torch.device(device).type
    return tensor


def device_of(tensor: Tensor) -> torch.device:
    """Return the device that Python sees."""
    real = real_device(tensor)
    if real.type != "cpu":
        return real
    return CUDA if logical(tensor) == "cuda" else CPU


def refuse_mixed(func: Any, tensors: Sequence[Tensor]) -> None:
    """Raise RuntimeError if these tensors cannot meet in ``func`` on CUDA."""
    known = [(tensor, logical(tensor)) for tensor in tensors if logical(tensor)]
    if {where for _, where in known} != {"cpu", "cuda"}:
        return
    on_cpu = [tensor for tensor, where in known if where == "cpu"]
    if any(tensor.dim() for tensor in on_cpu):
        shapes = [(tuple(tensor.shape), str(tensor.dtype), where) for tensor, where in known]
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found cuda:0 and cpu ({func}: {shapes})"
        )
    name = str(func).split(".")[1].rstrip("_")
    if torch.Tag.pointwise not in func.tags and name not in POINTWISE:
        raise RuntimeError(f"a CPU tensor of 0 dimensions in {func}, which is not pointwise")
    if "_fused_adam" not in str(func) and func._schema.is_mutable and logical(tensors[0]) == "cpu":
        raise RuntimeError(f"in-place {func} of a CPU tensor with CUDA numbers")


def check_index(own: Tensor, indices: Sequence[Any], value: Any) -> None:
    """Raise RuntimeError if ``own`` cannot be indexed with these tensors on CUDA."""
    indices = [index for index in indices if isinstance(index, Tensor)]
    if logical(own) == "cpu" and any(logical(index) == "cuda" for index in indices):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    if isinstance(value, Tensor) and value.dim() and {logical(own), logical(value)} == {"cpu", "cuda"}:
        raise RuntimeError(f"index_put_: self is on {logical(own)}, value on {logical(value)}")
    if logical(own) == "cuda" and any(index.dtype in (torch.bool, torch.uint8) for index in indices):
        syncs[f"boolean index at {caller()}"] += 1


def caller() -> str:
    """Return the innermost line of the package on the stack."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if PACKAGE in name and "fake_cuda" not in name:
            return f"{name.split(PACKAGE + '/')[-1]}: {linecache.getline(name, frame.f_lineno).strip()[:90]}"
        frame = frame.f_back
    return "elsewhere"


def check(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse what CUDA refuses, and count synchronisations."""
    if func in COPIES:
        return
    if func in INDEXING:
        check_index(args[0], args[1], args[2] if len(args) > 2 else None)
        return
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and real_device(x).type == "cpu"]
    refuse_mixed(func, tensors)
    if not any(logical(tensor) == "cuda" for tensor in tensors):
        return
    if func in SYNCS:
        syncs[f"{SYNCS[func]} at {caller()}"] += 1
    if func in PRODUCTS and not args[0].is_floating_point():
        raise RuntimeError(f'"{func}" not implemented for {args[0].dtype} on CUDA')


class Dispatch(TorchDispatchMode):
    """Checks each operation and marks its results with a device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        global _depth, allocated
        kwargs = kwargs or {}
        check(func, args, kwargs)
        _depth += 1  # Python kernels of custom operators see no mode: their tensors get the device of the inputs
        try:
            out = func(*args, **kwargs)
        finally:
            _depth -= 1
        where = {logical(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)} - {None}
        if (func in INDEXING or func in COPIES) and logical(args[0]):
            where = {logical(args[0])}  # unknown: inside an operator such as pad_sequence, where the value decides
        result = "cuda" if "cuda" in where else "cpu" if where else None
        for tensor in tree_leaves(out):
            if result and isinstance(tensor, Tensor) and logical(tensor) is None:
                mark(tensor, result)
        if result == "cuda" and func not in WITHOUT_KERNEL and not func.is_view:
            launches[str(func)] += 1
            allocated += sum(tensor.nbytes for tensor in tree_leaves(out) if isinstance(tensor, Tensor))
        return out


def named(device: Any) -> torch.device | None:
    """Convert any way to write a device."""
    if device is None:
        return None
    if isinstance(device, int):
        return CUDA
    return CUDA if torch.device(device).type == "cuda" else torch.device(device)


def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Replace ``Tensor.to``."""
    copy = kwargs.pop("copy", False)
    if args and isinstance(args[0], Tensor):
        device, dtype, layout = args[0].device, args[0].dtype, None
    else:
        if args and isinstance(args[0], str | torch.device | int) and not isinstance(args[0], bool):
            args = (named(args[0]), *args[1:])
        if len(args) == 4:
            copy, args = args[3], args[:3]
        if "device" in kwargs:
            kwargs["device"] = named(kwargs["device"])
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
    before = device_of(self)
    target = before if device is None else named(device)
    if real_device(self).type != "cpu" or target.type not in ("cpu", "cuda"):
        return original_to(self, device=target, dtype=dtype or self.dtype)
    moves = target.type != before.type
    if moves and target.type == "cpu":
        syncs[f"to cpu at {caller()}"] += 1
    further = {} if layout is None else {"memory_format": layout}
    out = original_to(self, dtype=dtype or self.dtype, copy=bool(copy) or moves, **further)
    known = logical(self) is not None and not _depth
    return mark(out, target) if moves or (known and out is not self) else out


def factory(original: Callable[..., Any], follows: bool) -> Callable[..., Any]:
    """Wrap a function that makes a tensor. ``follows``: without ``device`` it takes that of its first argument."""

    def make(*args: Any, **kwargs: Any) -> Any:
        device = named(kwargs.get("device"))
        if device is not None and device.type == "cuda":
            kwargs["device"] = "cpu"
        source = args[0] if args and isinstance(args[0], Tensor) else None
        if device is None and source is not None and follows:
            device = device_of(source)
        out = original(*args, **kwargs)
        shared = source is not None and out.untyped_storage()._cdata == source.untyped_storage()._cdata
        if shared and device is not None and device.type != device_of(source).type:
            out = out.clone()
        if _depth and (device is None or device.type == "cpu"):
            return out
        return mark(out, device or CPU) if real_device(out).type == "cpu" else out

    return make


def refused_on_cuda(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a conversion to numpy, which CUDA tensors refuse."""

    def convert(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if device_of(tensor).type == "cuda":
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        return original(tensor, *args, **kwargs)

    return convert


def install() -> Dispatch:
    """Replace the attributes of torch; once per process."""
    from torch.utils._device import _device_constructors

    _device_constructors()  # fills its cache before the functions are replaced
    _replace_methods(torch.Tensor)
    _replace_factories()
    _replace_kernels()
    _replace_cuda(torch.cuda)
    mode = Dispatch()
    mode.__enter__()
    return mode


def _replace_methods(tensor: Any) -> None:
    tolist = Base.tolist

    def counted_tolist(self: Tensor) -> Any:
        if device_of(self).type == "cuda":
            syncs[f"tolist at {caller()}"] += 1
        return tolist(self)

    tensor.device = property(device_of)
    tensor.is_cuda = property(lambda self: device_of(self).type == "cuda")
    tensor.is_cpu = property(lambda self: device_of(self).type == "cpu")
    tensor.get_device = lambda self: 0 if device_of(self).type == "cuda" else -1
    tensor.to = to
    tensor.cuda = lambda self, device=None, non_blocking=False, memory_format=None: self.to("cuda")
    tensor.cpu = lambda self, memory_format=None: self.to("cpu")
    tensor.pin_memory = lambda self, device=None: self.clone()
    tensor.numpy, tensor.__array__ = refused_on_cuda(Base.numpy), refused_on_cuda(tensor.__array__)
    tensor.tolist = counted_tolist
    for name in ("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"):
        setattr(tensor, name, factory(getattr(Base, name), follows=True))


def _replace_factories() -> None:
    alone = (
        "zeros ones empty full arange rand randn randint eye linspace logspace empty_strided randperm scalar_tensor "
        "triu_indices tril_indices from_numpy frombuffer"
    )
    following = "tensor as_tensor asarray empty_like zeros_like ones_like full_like rand_like randn_like randint_like"
    for names, follows in ((alone, False), (following, True)):
        for name in names.split():
            setattr(torch, name, factory(getattr(torch, name), follows))


def _replace_kernels() -> None:
    import safetensors.torch

    from tests.llm import varlen_kernel

    kept.append(varlen_kernel.register())
    gru, group = torch._VF.gru, torch._C._group_tensors_by_device_and_dtype
    load_file, mm = safetensors.torch.load_file, torch.mm

    def checked_gru(*args: Any, **kwargs: Any) -> Any:
        if isinstance(args[1], Tensor) and args[0].is_cuda and not args[1].is_contiguous():
            raise RuntimeError("rnn: hx is not contiguous")  # cuDNN: aten/src/ATen/native/cudnn/RNN.cpp
        return gru(*args, **kwargs)

    def grouped(tensors: Any, with_indices: bool = False) -> Any:
        groups = group(tensors, with_indices)
        return {(device_of(lists[0][0]), dtype): (lists, at) for (_, dtype), (lists, at) in groups.items()}

    def mm_with_dtype(a: Tensor, b: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
        if out_dtype is not None and not (a.is_cuda and a.dtype in (torch.bfloat16, torch.float16)):
            raise RuntimeError("out_dtype is only supported for bfloat16 and float16 on CUDA")
        return mm(a, b) if out_dtype is None else mm(a.float(), b.float())

    torch._VF.gru = checked_gru
    torch._C._group_tensors_by_device_and_dtype = grouped
    torch.mm = mm_with_dtype
    safetensors.torch.load_file = lambda *a, **k: {name: mark(t, CPU) for name, t in load_file(*a, **k).items()}


def _replace_cuda(cuda: Any) -> None:
    state = mark(torch.zeros(16, dtype=torch.uint8), CPU)

    def set_rng_state(new_state: Tensor, device: Any = "cuda") -> None:
        if new_state.device.type != "cpu" or new_state.dtype != torch.uint8:
            raise TypeError("RNG state must be a torch.ByteTensor")

    # Each name gets a separate function, because torch.compile's rules are by function.
    constants: Iterable[tuple[str, Any]] = (
        ("is_available", True),
        ("device_count", 1),
        ("current_device", 0),
        ("is_initialized", True),
        ("is_bf16_supported", True),
        ("get_device_name", "Fake GPU"),
        ("get_device_capability", (9, 0)),
        ("memory_reserved", 0),
        *((name, None) for name in ("empty_cache", "synchronize", "reset_peak_memory_stats", "_lazy_init")),
        *((name, None) for name in ("manual_seed", "manual_seed_all")),
    )
    for name, value in constants:
        setattr(cuda, name, lambda *args, value=value, **kwargs: value)
    cuda.mem_get_info = lambda device=None: (free_memory, 80 * 2**30)
    cuda.memory_allocated = lambda device=None: allocated
    cuda.max_memory_allocated = lambda device=None: allocated
    cuda.get_rng_state_all = lambda: [state.clone()]
    cuda.get_rng_state = lambda device="cuda": state.clone()
    cuda.set_rng_state = set_rng_state

    enabled, autocast = torch.is_autocast_enabled, torch.amp.autocast_mode.autocast
    begin = autocast.__init__

    def on_cpu(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        begin(self, "cpu" if str(device_type) == "cuda" else device_type, *args, **kwargs)

    autocast_dtype = torch.get_autocast_dtype
    torch.is_autocast_enabled = lambda device_type=None: enabled("cpu")
    torch.get_autocast_dtype = lambda device_type: autocast_dtype("cpu")
    autocast.__init__ = on_cpu
