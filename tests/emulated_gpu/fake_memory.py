"""Tensors and generators of a pretended device: host memory under another label."""

import ctypes
import functools
import os
import types

import torch

CPU = torch.device("cpu")
D = types.SimpleNamespace(  # the device: its name, dispatch key, number in c10 and in DLPack
    type="cuda", key="CUDA", c10=1, dlpack=2, index=int(os.environ.get("LOCAL_RANK", 0))
)
KEEP = []  # what C++ points to; never freed
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _relabel(x, *device):  # no copy: DLManagedTensor's DLDevice stands behind its data pointer
    capsule = torch._C._to_dlpack(x)
    (ctypes.c_int * 2).from_address(_pointer(capsule, b"dltensor") + 8)[:] = device
    return torch._C._from_dlpack(capsule)


def here(x):  # is this tensor on the pretended device?
    return x.device.type == D.type


def lower(x):
    return _relabel(x, 1, 0)


def lift(x):
    return _relabel(x, D.dlpack, D.index)


def label(generator, *device):  # the two bytes of GeneratorImpl that name its device
    where = ctypes.c_void_p.from_address(id(generator) + 16).value + 56
    (ctypes.c_int8 * 2).from_address(where)[:] = device


class Generator(torch._C.Generator):  # the CPU's, whose kernels then refuse it, as CUDA's would
    def __new__(cls, device="cpu"):
        self = super().__new__(cls)
        if torch.device(device).type == D.type:
            label(self, D.c10, D.index)
        return self


@functools.cache
def traits(op):  # (name, may CPU scalars take part?, does it draw random numbers?)
    name = op._schema.name.removeprefix("aten::")
    loose = torch.Tag.pointwise in op.tags or name.startswith(
        ("_foreach", "index", "_index_put", "fill_")
    )
    return name, loose, any(a.name == "generator" for a in op._schema.arguments)


def check(op, strangers, args):  # as the wrappers of CUDA's kernels do
    name, loose, _ = traits(op)
    if name == "index" or name.startswith(("index_put", "_index_put", "_unsafe_index")):
        strangers = [x for x in strangers if not any(x is i for i in args[1])]  # indices
    if any(x.dim() or not loose for x in strangers):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two "
            f"devices, {D.type}:{D.index} and cpu! (argument of aten::{name})"
        )
