"""One kernel for every operation of the pretended device: check devices, compute on the CPU."""

import torch
from fake_memory import CPU, KEEP, D, check, here, label, lift, lower, traits


def kernel(op, *args, **kwargs):
    pairs, strangers, drawn, made = {}, [], [], False
    name, _, draws = traits(op)

    def down(x):
        nonlocal made
        if isinstance(x, torch.Tensor):
            if not here(x):
                return strangers.append(x) or x
            if id(x) not in pairs:  # what may be resized must not be borrowed memory
                y = lower(x) if x.numel() else torch.empty_like(x, device=CPU)
                pairs[id(x)] = x, y.clone() if name == "resize_" else y
            return pairs[id(x)][1]
        if isinstance(x, torch.device) and x.type == D.type:
            made = True
            return CPU
        if isinstance(x, torch.UntypedStorage) and x.device.type == D.type:  # set_(), torch.save
            KEEP.append(x)
            return torch._C._construct_storage_from_data_pointer(x.data_ptr(), CPU, x.nbytes())
        if isinstance(x, torch._C.Generator):
            if x.device.type != D.type:
                raise RuntimeError(
                    f"Expected a '{D.type}' device type for generator but found 'cpu'"
                )
            label(x, 0, -1)
            drawn.append(x)
        return [down(y) for y in x] if isinstance(x, (list, tuple)) else x

    try:
        if draws and kwargs.get("generator") is None:
            kwargs["generator"] = torch.cuda.default_generators[0]
        a, k = down(args), {n: down(v) for n, v in kwargs.items()}
        if pairs and strangers:
            check(op, strangers, args)
        if name in ("_softmax", "_log_softmax") and a[2]:  # half to float, which the CPU's lack
            a[0], a[2] = a[0].float(), False
        before = {i: (y.shape, y.stride(), y.data_ptr()) for i, (_, y) in pairs.items()}
        out = op(*a, **k)
    finally:
        for g in drawn:
            label(g, D.c10, D.index)
    for i, (x, y) in pairs.items():
        if (y.shape, y.stride(), y.data_ptr()) != before[i]:  # resized
            x.data = lift(y)
    own = {id(y): x for x, y in pairs.values()}

    def up(y):
        if isinstance(y, (list, tuple)):
            return type(y)(up(z) for z in y)
        new = isinstance(y, torch.Tensor) and id(y) not in own and (pairs or made)
        return lift(y) if new else own.get(id(y), y)

    return up(out)


def copy_(to, source, non_blocking=False):  # the only operation that may cross devices
    (lower(to) if here(to) else to).copy_(lower(source) if here(source) else source)
    return to


def register():
    KEEP.extend([torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")])
    KEEP[-2].fallback(kernel, D.key)
    KEEP[-1].impl("copy_", copy_, D.key)
