"""What the pretended device must refuse and must allow; exits with 1 and says which it does not.

python tests/emulated_gpu/selfcheck.py
"""

import copy
import io
import sys
import warnings

import fake_cuda
import torch

warnings.filterwarnings("ignore")
fake_cuda.switch_on()
dev = "cuda"
F = torch.nn.functional
x, h, g = (
    torch.arange(6.0).view(2, 3).to(dev),
    torch.ones(2, 3),
    torch.Generator(dev).manual_seed(1),
)


def adam(move):
    """A step whose states are of the CPU, and whose weights are not."""
    w = torch.nn.Linear(3, 4)
    o = torch.optim.AdamW(w.parameters(), fused=move != "foreach")
    w(h).sum().backward()
    o.step()
    w.to(dev)
    w.zero_grad()
    w(x).sum().backward()
    o.step()


def autocast():
    with torch.autocast(dev, torch.bfloat16):
        return x @ x.t()


REFUSE = dict(
    add=lambda: x + h,
    mm=lambda: x @ h.t(),
    matmul_bias=lambda: F.linear(x, torch.ones(4, 3)),
    cat=lambda: torch.cat([x, h]),
    where=lambda: torch.where(h > 0, x, 0.0),
    gather=lambda: x.gather(1, torch.zeros(2, 1, dtype=torch.long)),
    masked_fill=lambda: x.masked_fill(h > 0, 0.0),
    inplace=lambda: h.clone().add_(x),
    embedding=lambda: torch.nn.Embedding(4, 3).to(dev)(torch.tensor([1])),
    cpu_indexed=lambda: h[torch.tensor([1]).to(dev)],
    out=lambda: torch.add(x, x, out=h.clone()),
    scalar_out=lambda: torch.zeros(()).add_(x.sum()),
    maximum=lambda: torch.maximum(x, h),
    searchsorted=lambda: torch.searchsorted(x, h),
    numpy=lambda: x.numpy(),
    grad=lambda: setattr(x.clone().requires_grad_(), "grad", h),
    generator=lambda: torch.rand(2, device=dev, generator=torch.Generator()),
    generator_cpu=lambda: torch.rand(2, generator=g),
    adam_state=lambda: adam("fused"),
    adam_state_foreach=lambda: adam("foreach"),
    layer_norm=lambda: F.layer_norm(x, (3,), torch.ones(3)),
    stack=lambda: torch.stack([x, h]),
    foreach=lambda: torch._foreach_add([x], [h]),
    scalar_mm=lambda: torch.cat([x.view(-1), torch.ones(())[None]]),
    ce=lambda: F.cross_entropy(x, torch.tensor([0, 1])),
    sdpa=lambda: F.scaled_dot_product_attention(x[None], x[None], h[None]),
    backward=lambda: (x.clone().requires_grad_() * 2).backward(h),
    scatter=lambda: x.scatter_add(1, torch.zeros(2, 1, dtype=torch.long), x),
)
ALLOW = dict(
    scalar=lambda: x + torch.ones(()),
    number=lambda: x * 2,
    item=lambda: x.sum().item(),
    tolist=lambda: x.tolist(),
    index_list=lambda: x[[1, 0]],
    cpu_index=lambda: x[torch.tensor([1])],
    setitem=lambda: x.clone().__setitem__(0, torch.tensor(3.0)),
    copy=lambda: h.clone().copy_(x),
    back=lambda: x.cpu() + h,
    generator=lambda: torch.rand(2, device=dev, generator=g),
    where=lambda: torch.where(x > 0, torch.tensor(1.0), x),
    print=lambda: repr(x),
    deepcopy=lambda: copy.deepcopy(torch.nn.Linear(2, 2).to(dev)),
    save=lambda: torch.save(x, io.BytesIO()),
    resize=lambda: x.clone().resize_(9),
    sort=lambda: x.sort(),
    unique=lambda: x.unique(),
    multinomial=lambda: torch.multinomial(x + 1, 2, generator=g),
    clip=lambda: torch.nn.utils.clip_grad_norm_(torch.nn.Linear(2, 2).to(dev).parameters(), 1.0),
    pin=lambda: h.pin_memory().to(dev, non_blocking=True),
    nb=lambda: x.to("cpu", non_blocking=True),
    bf16=lambda: (x.bfloat16() @ x.bfloat16().t()).float(),
    checkpoint=lambda: (
        torch.utils.checkpoint.checkpoint(
            lambda y: y.exp(), x.clone().requires_grad_(), use_reentrant=False
        )
        .sum()
        .backward()
    ),
    autocast=autocast,
    half_softmax=lambda: x.half().log_softmax(-1, dtype=torch.float32),
)


def missed() -> list[str]:
    """What is wrongly allowed, and what is wrongly refused."""
    bad = []
    for name, case in REFUSE.items():
        try:
            case()
            bad.append(f"missed: {name}")
        except (RuntimeError, TypeError):
            pass
    for name, case in ALLOW.items():
        try:
            case()
        except Exception as error:
            bad.append(f"false alarm: {name}: {type(error).__name__} {str(error)[:90]}")
    return bad


if __name__ == "__main__":
    sys.exit("; ".join(missed()) or None)
