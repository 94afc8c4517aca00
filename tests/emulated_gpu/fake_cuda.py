"""`cuda:N` on a CPU build of torch. `switch_on()` before anything else; it cannot be undone.

Private parts of torch 2.13 are used throughout: `selfcheck.py` says whether they still hold.
"""

import contextlib
import ctypes
import types

import fake_kernel
import torch
from fake_memory import KEEP, D, Generator, here


def in_cpp():
    lib = {n: ctypes.CDLL(f"{torch.__path__[0]}/lib/lib{n}.so") for n in ("c10", "torch_cpu")}
    address = lambda f: ctypes.cast(f, ctypes.c_void_p).value
    zero = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(lambda self: 0)
    table = (ctypes.c_void_p * 64)(*[address(zero)] * 64)
    empty = ctypes.c_void_p(ctypes.addressof(table))  # a guard of 0 devices, which torch replaces
    lib["c10"]._ZN3c104impl19registerDeviceGuardENS_10DeviceTypeEPKNS0_24DeviceGuardImplInterfaceE(
        ctypes.c_int8(D.c10), ctypes.byref(empty)
    )
    torch._C._ensureCUDADeviceGuardSet()  # by FakeGuardImpl<CUDA>, of 8 devices
    get = lib["torch_cpu"]._ZN2at6detail12getCUDAHooksEv
    get.restype = ctypes.c_void_p
    hooks, methods = ctypes.c_void_p.from_address(get()), (ctypes.c_void_p * 64)()
    ctypes.memmove(methods, hooks.value, 64 * 8)
    for i in (2, 3, 4, 5, 6):  # isBuilt, isAvailable, hasPrimaryContext, init, deviceCount: 1
        methods[i] = address(ctypes.pythonapi.Py_IsInitialized)
    methods[8] = address(ctypes.pythonapi._Py_IsFinalizing)  # getCurrentDevice: 0
    methods[12] = address(lib["c10"]._ZN3c1015GetCPUAllocatorEv)  # getPinnedMemoryAllocator
    hooks.value = ctypes.addressof(methods)
    KEEP.extend([zero, table, empty, methods])


class Stream:  # and Event: whatever is asked for has been done
    def __init__(self, *a, **k):
        pass

    def __getattr__(self, name):
        return lambda *a, **k: True


def copied(x):
    y = x.detach().clone()
    return torch.nn.Parameter(y, x.requires_grad) if isinstance(x, torch.nn.Parameter) else y


def switch_on():
    in_cpp()
    fake_kernel.register()
    for x in KEEP:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(x))  # C++ uses them until the very end
    card = types.SimpleNamespace(total_memory=2**34, name="pretended", major=8, minor=0)
    for name, value in dict(
        _lazy_init=None,
        is_available=True,
        device_count=8,
        set_device=None,
        current_device=D.index,
        synchronize=None,
        empty_cache=None,
        is_initialized=True,
        is_bf16_supported=True,
        get_device_capability=(8, 0),
        get_device_name="pretended",
        get_device_properties=card,
        memory_allocated=0,
        max_memory_allocated=0,
        memory_reserved=0,
        max_memory_reserved=0,
        memory_stats={},
        _is_in_bad_fork=False,
        reset_peak_memory_stats=None,
        is_current_stream_capturing=False,
        _exchange_device=0,
        _maybe_exchange_device=0,
        current_stream=Stream(),
        default_stream=Stream(),
    ).items():
        setattr(torch.cuda, name, lambda *a, value=value, **k: value)
    torch.cuda.nvtx.range_push = torch.cuda.nvtx.range_pop = lambda *a, **k: 0
    torch.cuda.Stream, torch.cuda.Event, torch.cuda.stream = Stream, Stream, contextlib.nullcontext
    torch.Tensor.record_stream, torch.Generator = lambda self, stream: None, Generator
    default = Generator(D.type)
    torch.cuda.default_generators = [default] * 8
    torch.cuda.manual_seed = torch.cuda.manual_seed_all = default.manual_seed
    torch.cuda.get_rng_state = lambda *a: default.get_state()
    torch.cuda.set_rng_state = lambda state, *a: default.set_state(state)
    plain = torch.Tensor.__deepcopy__
    torch.Tensor.__deepcopy__ = lambda x, memo: (
        memo.setdefault(id(x), copied(x)) if here(x) and id(x) not in memo else plain(x, memo)
    )
