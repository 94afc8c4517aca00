"""What a rank really holds and sends (chapter 9): a few SFT steps for each case, measured.

Bytes are counted by walking the tensors, each storage once; what is sent is read off the
collective operations as PyTorch dispatches them. No formula of the memory arithmetic is used.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedTokenizerBase

from chatlib.data import collate
from chatlib.data.template import Encoded
from chatlib.runs.recorder import Recorder
from chatlib.settings.stages import ProbeConfig, SFTConfig, TinyModel
from chatlib.train import engine, models, sft
from chatlib.train.models import AnswerLM
from chatlib.train.records import load_data

GRADIENTS = (  # where DeepSpeed 0.19 keeps gradients that have left `p.grad`
    "grads_in_partition",
    "averaged_gradients",
    "all_grad_tensors",
    "grad_partitions_flat_buffer",
)


def train(config: ProbeConfig, recorder: Recorder) -> dict:
    """Measure every case in turn; the summary holds one list of findings a case, by rank."""
    device = engine.start(config, recorder)
    first = config.case(next(iter(config.cases)))
    data = load_data(first, recorder).train
    _, tokenizer = sft.start_model(first, data)
    examples, _ = sft.encode(tokenizer, data, config.max_seq_len, recorder)
    found = {}
    for name in config.cases:
        recorder.beat(0, name)
        with Resident() as resident:
            own = measure(config.case(name), tokenizer, examples, device, recorder)
        found[name] = engine.gather([own | {"resident": resident.grown}])
    return {"cases": found}


def measure(
    config: SFTConfig,
    tokenizer: PreTrainedTokenizerBase,
    examples: list[Encoded],
    device: torch.device,
    recorder: Recorder,
) -> dict:
    """Train for `steps` (2 or more), and one step more, in which bytes are counted, slowly."""
    if not isinstance(config.model, TinyModel):
        raise ValueError(f"model {config.model}: a probe measures new models; give their widths")
    engine.seed_everything(config.seed)
    model = models.tiny_policy(config.model, tokenizer)
    models.adapt(model, config, "CAUSAL_LM", recorder)
    net = engine.initialize(config, AnswerLM(model), config.learning_rate, config.steps)
    batches = collate.Batches([len(e.ids) for e in examples], config.batch_size, config.seed)
    losses, seconds, tokens = [], [], 0
    for step in range(config.steps):
        batch, began = [examples[i] for i in batches.at(step)], time.perf_counter()
        losses.append(sft.learn(net, batch, tokenizer, config, recorder, device))
        if step:  # the first one also makes the optimizer's states, and stage 3's plan
            seconds.append(time.perf_counter() - began)
            tokens += sum(len(e.ids) for e in batch)
        recorder.log(step + 1, loss=losses[-1])
    gradients = Latest(lambda: size(gradient_storages(net)), net.module)
    with Sent() as sent:
        sft.learn(net, batch, tokenizer, config, recorder, device)
    gradients.remove()
    parts = held(net, gradients.value)
    net.destroy()
    speed = tokens / sum(seconds)
    return {"losses": losses, "held": parts, "sent": sent.bytes, "tokens_per_second": speed}


# ------------------------------------------------------------------- bytes held


def held(net: engine.Engine, gradients: int) -> dict[str, int]:
    """Bytes by what they are for; a storage that weights and optimizer share is the weights'."""
    weights = storages(weight_tensors(net))
    optimizer = storages(optimizer_tensors(net))
    own = sum(bytes_ for address, bytes_ in optimizer.items() if address not in weights)
    return {"weights": size(weights), "gradients": gradients, "optimizer": own}


def weight_tensors(net: engine.Engine) -> Iterator[Tensor]:
    """The module's weights; at stage 3 a rank's shard of each and what is gathered just now."""
    for weight in net.module.parameters():
        yield weight
        yield from tensors(getattr(weight, "ds_tensor", None))


def gradient_storages(net: engine.Engine) -> dict[int, int]:
    """Every gradient: those of the weights, and what the ZeRO optimizer has made of them."""
    zero = net.optimizer
    found = [p.grad for p in net.module.parameters()]
    found += [getattr(zero, name, None) for name in GRADIENTS]
    return storages(tensors(found))


def optimizer_tensors(net: engine.Engine) -> Iterator[Tensor]:
    """Adam's moments, and the fp32 copies of the weights that it steps."""
    zero = net.optimizer
    base = getattr(zero, "optimizer", zero)
    yield from tensors(list(base.state.values()))
    yield from tensors([group["params"] for group in base.param_groups])
    yield from tensors(getattr(zero, "fp32_partitioned_groups_flat", None))


def tensors(x: object) -> Iterator[Tensor]:
    """The tensors in nested lists and dicts."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, list | tuple | dict):
        for part in x.values() if isinstance(x, dict) else x:
            yield from tensors(part)


def storages(found: Iterable[Tensor]) -> dict[int, int]:
    """Address and bytes of each storage: views share one."""
    real = (t.untyped_storage() for t in found if t.device.type != "meta")
    return {storage.data_ptr(): storage.nbytes() for storage in real if storage.nbytes()}


def size(found: dict[int, int]) -> int:
    """Bytes of some storages."""
    return sum(found.values())


class Latest:
    """What a function says when the last gradient of a backward pass has just been made.

    Hooks run in the order of their registration: DeepSpeed's own have moved the gradient already.
    """

    def __init__(self, ask: Callable[[], int], module: torch.nn.Module) -> None:
        self.value, self.ask = 0, ask
        trained = [weight for weight in module.parameters() if weight.requires_grad]
        self._hooks = [w.register_post_accumulate_grad_hook(self._look) for w in trained]

    def _look(self, weight: Tensor) -> None:
        self.value = self.ask()

    def remove(self) -> None:
        """Look no more, and let go of the weights."""
        for hook in self._hooks:
            hook.remove()


class Resident:
    """How far this process's resident memory grows, looked at every few milliseconds."""

    def __init__(self, every: float = 0.005) -> None:
        self.every, self._ended = every, threading.Event()
        self._start = self._most = 0

    @property
    def grown(self) -> int:
        """Bytes at the highest point, less those at the start."""
        return self._most - self._start

    def _watch(self) -> None:
        while not self._ended.wait(self.every):
            self._most = max(self._most, psutil.Process().memory_info().rss)

    def __enter__(self) -> Resident:
        gc.collect()
        if sys.platform == "linux":  # what the last case freed goes back to the system
            ctypes.CDLL(None).malloc_trim(0)
        self._start = self._most = psutil.Process().memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()


# ------------------------------------------------------------------- bytes sent


class Sent(TorchDispatchMode):
    """Bytes of the tensors that collective operations work on, by operation, while it is on.

    For all-gather that is the gathered tensor, for reduce-scatter the one that is scattered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # what the operation returns
        if func.namespace == "c10d":
            name = func._opname.strip("_").removesuffix("_base")
            found = tensors(list(args))
            self.bytes[name] += max((t.nbytes for t in found), default=0)
        return func(*args, **(kwargs or {}))
