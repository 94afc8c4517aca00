"""A backend `nccl` over gloo that refuses CPU tensors. After `fake_cuda.switch_on()`."""

import atexit
import types

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from fake_memory import CPU, KEEP, D, here, lower

TWINS = {}  # name of a group: a group of the same ranks whose backend takes CPU tensors
atexit.register(TWINS.clear)  # gloo's threads must end before the process does


class Either(type):
    def __instancecheck__(cls, x):
        return isinstance(x, c10d.ProcessGroupGloo)


class FakeNCCL(metaclass=Either):
    Options = types.SimpleNamespace

    def __new__(cls, store, rank, size, options):
        backend = c10d.ProcessGroupGloo(store, rank, size, timeout=options._timeout)
        twin = dist.ProcessGroup(store, rank, size)
        twin._set_default_backend(dist.ProcessGroup.BackendType.GLOO)
        twin._register_backend(CPU, dist.ProcessGroup.BackendType.GLOO, backend)
        TWINS[options.group_name] = twin
        return backend  # registered for 'cuda' alone: a CPU tensor finds none, as with NCCL


def collective(op):
    def run(*args):
        def down(x):
            if isinstance(x, torch.Tensor):
                if not here(x):
                    raise RuntimeError("Tensors must be CUDA and dense")
                return lower(x)
            if isinstance(x, torch.ScriptObject) and "ProcessGroup" in x._type().name():
                return TWINS[dist.ProcessGroup.unbox(x).group_name].boxed()
            return [down(y) for y in x] if isinstance(x, list) else x

        out = op(*map(down, args))
        return (args[0], out[1]) if isinstance(out, tuple) else out

    return run


def switch_on():
    """Let `init_process_group("nccl")` make such a group."""
    c10d._NCCL_AVAILABLE, c10d.ProcessGroupNCCL = True, FakeNCCL
    torch.cuda.nccl.version = lambda: (2, 27, 5)
    lib = torch.library.Library("c10d", "IMPL")
    for full in torch._C._dispatch_get_registrations_for_dispatch_key(D.key):
        if full.startswith("c10d::"):
            name = full.removeprefix("c10d::")
            op = getattr(torch.ops.c10d, name).default
            lib.impl(name, collective(op), D.key, allow_override=True)
    KEEP.append(lib)
