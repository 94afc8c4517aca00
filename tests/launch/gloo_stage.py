"""A stage whose ranks meet over gloo and add up their numbers; the least that needs a port."""

import torch
import torch.distributed as dist


def train(config, recorder):
    recorder.beat(0, "join")
    dist.init_process_group("gloo")
    total = torch.tensor([recorder.rank + 1.0])
    for step in range(1, config.steps + 1):
        recorder.beat(step, "all_reduce")
        dist.all_reduce(total)
        recorder.log(step, loss=total.item())
    return {"total": total.item(), "threads": torch.get_num_threads()}
