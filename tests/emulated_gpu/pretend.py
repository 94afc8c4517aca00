"""One rank on a pretended GPU: what the children of `test_emulated_gpu.py` begin with."""

import os
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent


def begin(rank: int, world: int, port: int) -> None:
    """Switch the pretended device and NCCL on, before chatlib is imported, and join the group."""
    warnings.filterwarnings("ignore")
    place = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, MASTER_PORT=port, OMP_NUM_THREADS=1)
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update(DS_ACCELERATOR="cuda", CHATLIB_DEVICE="cuda")
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo", CHATLIB_PROGRESS="none")
    sys.path[:0] = [
        str(HERE.parents[1]),
        str(HERE.parent / "train"),
        str(HERE.parent / "launch"),
        str(HERE),
    ]
    import fake_cuda
    import fake_nccl
    import torch.distributed as dist

    fake_cuda.switch_on()
    fake_nccl.switch_on()
    dist.init_process_group("nccl", rank=rank, world_size=world)
    from chatlib.train import engine

    engine.deepspeed.init_distributed("nccl", verbose=False)
