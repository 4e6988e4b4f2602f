"""One worker of test_bmuf.py: a linear regression by AdamW and BMUF, without a trainer."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import distributed

from tuneproof.study import BMUF
from tuneproof.training.bmuf import Filter


def train(case, problem, rank=0):
    start, inputs, targets = (torch.from_numpy(problem[key]) for key in ("start", "inputs", "targets"))
    weight = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([weight], lr=case["rate_of_learning"], weight_decay=0.01)
    bmuf = Filter(BMUF(**case["bmuf"]), {"weight": weight})
    models, steps = [], inputs.shape[1]
    for step in range(steps):
        bmuf.hide()
        optimizer.zero_grad()
        ((inputs[rank, step] @ weight - targets[rank, step]) ** 2).mean().backward()
        optimizer.step()
        bmuf.step(optimizer, last=step == steps - 1)
        bmuf.show()
        models.append(weight.detach().numpy().copy())
    bmuf.finish(optimizer)
    if bmuf.workers > 1:
        everywhere = [torch.empty_like(weight) for _ in range(bmuf.workers)]
        distributed.all_gather(everywhere, weight.detach())
        assert all(torch.equal(weight, other) for other in everywhere), "the workers end with one model, bit for bit"
    return np.stack([*models, weight.detach().numpy()])


def main(cases, problem, out):
    distributed.init_process_group("gloo")
    rank, values = distributed.get_rank(), np.load(problem)
    for name, case in json.loads(Path(cases).read_text()).items():
        models = train(case, values, rank)
        if rank == 0:
            np.savez(Path(out) / f"{name}.npz", models=models)
    distributed.destroy_process_group()
