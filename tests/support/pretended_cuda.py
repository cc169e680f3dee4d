"""A pretended CUDA device: tensors that are on the CPU and say `cuda:0`, to test the GPU path without a GPU.

Numbers are real, so whole trainings run. As on a GPU, operators do not accept tensors of both devices, and autocast is
CUDA's. Every wait of the host for the device is recorded with the function that causes it.

    with pretended_cuda() as seen:
        model.cuda()(**batch)
    seen.waits    # Counter({("item", "sequence_generator.py:generate"): 3})
"""

import contextlib
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch._dynamo  # imported later, it would inspect the functions that are replaced here
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
HALF = (torch.float16, torch.bfloat16)

# Operators whose result the host needs: it waits until the device has computed it.
WAITING = {
    "aten::_local_scalar_dense": "item",
    "aten::is_nonzero": "item",
    "aten::equal": "equal",
    "aten::nonzero": "nonzero",
    "aten::masked_select": "masked_select",
    "aten::_unique2": "unique",
    "aten::unique_dim": "unique",
    "aten::unique_consecutive": "unique",
}
# Operators that sum many numbers: their result loses precision if it is float16 or bfloat16.
SUMMING = {"aten::_log_softmax", "aten::logsumexp", "aten::cumsum", "aten::linalg_vector_norm", "aten::norm"}
PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}
INDEXING = {
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index",
    "aten::_unsafe_index_put",
}


class DeviceError(RuntimeError):
    """An operator was given tensors of both devices."""


class Observations:
    """What happened on the device. Each Counter has keys (what, "file.py:function")."""

    def __init__(self) -> None:
        self.waits: Counter[tuple[str, str]] = Counter()
        self.half_sums: Counter[tuple[str, str]] = Counter()

    def clear(self) -> None:
        self.waits.clear()
        self.half_sums.clear()

    def waits_of(self, *files: str) -> int:
        """Return the number of waits caused by these files."""
        return sum(count for (_, place), count in self.waits.items() if place.split(":")[0] in files)


SEEN = Observations()


def caller() -> str:
    """Return the innermost function on the stack that is not torch's or this file's."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_code.co_filename
        if name != __file__ and "/torch/" not in name and "<" not in name:
            break
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"


class CudaTensor(Tensor):
    """A tensor with CUDA's dispatch keys, whose numbers are those of `self.cpu_tensor`."""

    cpu_tensor: Tensor

    @staticmethod
    def __new__(cls, cpu_tensor: Tensor):
        cpu_tensor = cpu_tensor.detach()
        tensor = Tensor._make_subclass(cls, cpu_tensor, False, device_for_backend_keys=CUDA)
        tensor.cpu_tensor = cpu_tensor
        return tensor

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def get_device(self) -> int:
        return 0

    def __repr__(self, **kwargs) -> str:
        return f"CudaTensor({self.cpu_tensor!r})"

    def __reduce_ex__(self, protocol):
        return CudaTensor, (self.cpu_tensor,)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copy = CudaTensor(self.cpu_tensor.clone())
            is_parameter = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = torch.nn.Parameter(copy, self.requires_grad) if is_parameter else copy
        return memo[id(self)]

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        replacement = FUNCTIONS.get(func)
        if replacement is not None:
            return replacement(*args, **kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def to(self: Tensor, *args, **kwargs) -> Tensor:
    """Replace `Tensor.to`, which does not know this device."""
    if args and isinstance(args[0], Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
    for value in args:
        if isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, (str, torch.device, int)) and not isinstance(value, bool):
            device = value
    target = CUDA if isinstance(device, int) else self.device if device is None else torch.device(device)
    dtype, copy, source = dtype or self.dtype, kwargs.get("copy", False), self.device.type
    if source == target.type:
        with torch._C.DisableTorchFunctionSubclass():
            return self if dtype == self.dtype and not copy else Tensor.to(self, dtype=dtype, copy=copy)
    if source == "cuda":
        SEEN.waits["to the host", caller()] += 1
        return self.cpu_tensor.to(dtype=dtype, copy=True)
    if not kwargs.get("non_blocking"):
        SEEN.waits["to the device", caller()] += 1
    return CudaTensor(self.detach().to(dtype=dtype, copy=True))


def new_tensor(self: Tensor, data, **kwargs) -> Tensor:
    return torch.tensor(data, **{"device": CUDA, "dtype": self.dtype, **kwargs})


def no_numpy(self: Tensor, **kwargs):
    raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first.")


def set_data(self: Tensor, data: Tensor) -> None:
    with torch._C.DisableTorchFunctionSubclass():
        Tensor.data.__set__(self, data)
    self.cpu_tensor = data.cpu_tensor


FUNCTIONS: dict[Callable, Callable] = {
    Tensor.to: to,
    Tensor.type_as: to,
    Tensor.cuda: lambda self, *args, **kwargs: to(self, CUDA, **kwargs),
    Tensor.cpu: lambda self, **kwargs: to(self, CPU),
    Tensor.tolist: lambda self: to(self, CPU).tolist(),
    Tensor.numpy: no_numpy,
    Tensor.__array__: no_numpy,
    Tensor.new_tensor: new_tensor,
    Tensor.data_ptr: lambda self: self.cpu_tensor.data_ptr(),
    Tensor.data.__get__: lambda self: self.detach(),
    Tensor.data.__set__: set_data,
}


def run(func, args: tuple, kwargs: dict):
    """Run an operator of which an argument or the result is on the device."""
    if torch.is_inference_mode_enabled() and func.has_kernel_for_dispatch_key(
        torch._C.DispatchKey.CompositeImplicitAutograd
    ):  # autograd decomposes these operators otherwise
        result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    on_device = [isinstance(tensor, CudaTensor) for tensor in tensors]
    device = kwargs.get("device")
    makes_cuda = device is not None and torch.device(device).type == "cuda"
    if not any(on_device) and not makes_cuda:
        return func(*args, **kwargs)
    name = func.name().split(".")[0]
    if name == "aten::copy_":
        if not all(on_device):
            SEEN.waits["copy_", caller()] += 1
    elif name not in ("aten::_to_copy", "aten::set_"):
        check_devices(name, args, tensors)
    if name in WAITING:
        SEEN.waits[WAITING[name], caller()] += 1
    if name == "aten::index" and any(is_mask(index) for index in args[1]):
        SEEN.waits["index by a mask", caller()] += 1
    kwargs = {key: CPU if key == "device" and makes_cuda else value for key, value in kwargs.items()}
    kwargs.pop("pin_memory", None)
    out = compute(name, func, tree_map(unwrap, args), tree_map(unwrap, kwargs))
    if name in SUMMING and isinstance(out, Tensor) and out.dtype in HALF:
        SEEN.half_sums[name, caller()] += 1
    return written_arguments(func, args, kwargs, tree_map(wrap, out))


def compute(name: str, func, args: tuple, kwargs: dict):
    """Run an operator on the CPU. As on a GPU, products of half precision are summed in float32, and then rounded."""
    if name not in PRODUCTS or args[0].dtype not in HALF:
        return func(*args, **kwargs)
    dtype = args[0].dtype
    args = tree_map(lambda value: value.float() if isinstance(value, Tensor) else value, args)
    return func(*args, **kwargs).to(dtype)


def check_devices(name: str, args: tuple, tensors: list[Tensor]) -> None:
    """Raise an error if tensors are on both devices. A tensor without dimensions may be on the CPU."""
    for tensor in tensors:
        if isinstance(tensor, CudaTensor) or tensor.dim() == 0:
            continue
        if name in INDEXING and tensor is not args[0] and any(tensor is index for index in args[1]):
            SEEN.waits["index on the CPU", caller()] += 1
            continue
        raise DeviceError(f"{name} in {caller()} was given tensors on cuda:0 and cpu")


def is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def unwrap(value):
    return value.cpu_tensor if isinstance(value, CudaTensor) else value


def wrap(value):
    return CudaTensor(value) if isinstance(value, Tensor) and not isinstance(value, CudaTensor) else value


def written_arguments(func, args: tuple, kwargs: dict, out):
    """Return the arguments that an operator has written to, as it does itself, in place of new tensors."""
    results, schema = func._schema.returns, func._schema.arguments
    written = [result.alias_info for result in results if result.alias_info and result.alias_info.is_write]
    if not written:
        return out
    outs = []
    for result, value in zip(results, out if isinstance(out, (tuple, list)) else (out,)):
        if result.alias_info and result.alias_info.is_write:
            names = result.alias_info.before_set
            i = next(i for i, a in enumerate(schema) if a.alias_info and a.alias_info.before_set & names)
            value = args[i] if i < len(args) else kwargs[schema[i].name]
        outs.append(value)
    return outs[0] if len(results) == 1 else tuple(outs)


class Operators(TorchDispatchMode):
    """Runs the operators that create tensors on the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class Functions(TorchFunctionMode):
    """Moves tensors to the device: torch would look for a driver."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (Tensor.to, Tensor.cuda):
            return FUNCTIONS[func](*args, **kwargs)
        if func is torch.tensor and kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            return to(torch.tensor(*args, **{**kwargs, "device": CPU}), CUDA)
        if func is torch.nn.functional.dropout and isinstance(args[0], CudaTensor):
            return dropout(*args, **kwargs)
        return func(*args, **kwargs)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """CUDA's dropout is one operator."""
    return torch.native_dropout(input, p, True)[0] if training and p > 0 else input


# Autocast: CUDA's kernels are present in every build, but they look at the device that a CudaTensor only pretends.
AUTOCAST_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)


def autocast_policies() -> dict[str, list[tuple[str, str]]]:
    """Return the operators, (name, overload), of each policy in torch's header file."""
    header = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
    if not header.exists():
        pytest.skip("this build of torch has no header files: autocast's lists of operators are unknown")
    policies = {}
    for policy in ("LOWER_PRECISION_FP", "FP32", "FP32_SET_OPT_DTYPE", "PROMOTE"):
        body = re.search(rf"#define AT_FORALL_{policy}\(_\)(.*?)\n\n", header.read_text() + "\n\n", re.DOTALL)
        assert body is not None, f"the list {policy} of torch's autocast has moved"
        policies[policy] = re.findall(r"_\((\w+)(?:, (\w+))?\)", body[1])
    return policies


def cast_to(dtype: torch.dtype) -> Callable:
    def cast(value):
        is_eligible = isinstance(value, CudaTensor) and value.is_floating_point() and value.dtype != torch.float64
        return to(value, dtype) if is_eligible else value

    return cast


def with_dtype(operator, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Set the argument dtype to float32 if it is not set."""
    place = [argument.name for argument in operator._schema.arguments].index("dtype")
    if len(args) > place:
        return (*args[:place], args[place] or torch.float32, *args[place + 1 :]), kwargs
    return args, {**kwargs, "dtype": kwargs.get("dtype") or torch.float32}


def autocast_kernel(operator, policy: str) -> Callable:
    def kernel(*args, **kwargs):
        with torch._C._ExcludeDispatchKeyGuard(AUTOCAST_KEYS):
            if policy == "LOWER_PRECISION_FP":
                args, kwargs = tree_map(cast_to(torch.get_autocast_dtype("cuda")), (args, kwargs))
            elif policy == "FP32":
                args, kwargs = tree_map(cast_to(torch.float32), (args, kwargs))
            elif policy == "FP32_SET_OPT_DTYPE":
                args, kwargs = with_dtype(operator, args, kwargs)
            else:
                dtypes = {x.dtype for x in tree_flatten((args, kwargs))[0] if isinstance(x, CudaTensor)}
                if torch.float32 in dtypes:
                    args, kwargs = tree_map(cast_to(torch.float32), (args, kwargs))
            return operator(*args, **kwargs)

    return kernel


@contextlib.contextmanager
def cuda_autocast() -> Iterator[None]:
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each replaces a kernel
        for policy, operators in autocast_policies().items():
            for name, overload in operators:
                packet = getattr(torch.ops.aten, name, None)
                operator = getattr(packet, overload or "default", None)
                if operator is not None:
                    library.impl(
                        f"{name}.{overload}" if overload else name, autocast_kernel(operator, policy), "AutocastCUDA"
                    )
    try:
        yield
    finally:
        library._destroy()


class Properties:
    name, major, minor, total_memory, multi_processor_count = "pretended", 9, 0, 80 * 2**30, 132


def nothing(*args, **kwargs) -> None:
    pass


TORCH_CUDA = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "is_initialized": lambda: True,
    "current_device": lambda: 0,
    "get_device_capability": lambda *args: (9, 0),
    "get_device_properties": lambda *args: Properties,
    "get_device_name": lambda *args: Properties.name,
    "is_bf16_supported": lambda *args, **kwargs: True,
    "max_memory_allocated": lambda *args: 0,
    "memory_summary": lambda *args, **kwargs: "",
    "get_rng_state": lambda *args: torch.get_rng_state(),
    "current_stream": lambda *args: SimpleNamespace(synchronize=nothing),
    **dict.fromkeys(
        ("_lazy_init", "empty_cache", "manual_seed", "manual_seed_all", "reset_peak_memory_stats"), nothing
    ),
    **dict.fromkeys(("set_device", "set_rng_state", "synchronize", "reset_peak_memory_stats"), nothing),
}


@contextlib.contextmanager
def pretended_cuda() -> Iterator[Observations]:
    """Pretend that the machine has one CUDA device."""
    private = "DisableTorchFunctionSubclass", "_ExcludeDispatchKeyGuard"
    if not hasattr(Tensor, "_make_subclass") or not all(hasattr(torch._C, name) for name in private):
        pytest.skip("this version of torch lacks the private names that a pretended device needs")
    SEEN.clear()
    swap = torch.__future__.get_swap_module_params_on_conversion()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(torch.cuda, **TORCH_CUDA))
        stack.enter_context(mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
        stack.enter_context(cuda_autocast())
        stack.enter_context(Functions())
        stack.enter_context(Operators())
        torch.__future__.set_swap_module_params_on_conversion(True)  # tied parameters stay tied
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swap)
        yield SEEN
