"""What benchmarks/speed.py compares with: the same trainings written in PyTorch, as one would write them there.

A process of its own, so that neither library meets the other's threads: it reads a folder of arrays, prepares (compiles, takes
a first step), prints `ready`, waits for a line on standard input, works, and prints its figures as one line of JSON. So several
processes can start at the same moment. Not meant to be called by hand.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch  # type: ignore[import-not-found]
import torch.nn.functional as F  # type: ignore[import-not-found]  # noqa: N812
from torch import nn  # type: ignore[import-not-found]

MOMENTUM = 0.9


def main() -> None:
    """Prepare, wait, work, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("pool", "loop", "vmap", "bmm"))
    parser.add_argument("--data", type=Path, required=True, help="an npz with images, labels, test_images and test_labels")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--models", type=int, required=True, help="to be trained")
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--layout", default="contiguous_format", help="or channels_last; of images and kernels")
    parser.add_argument("--batch-size", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    arrays = {name: torch.as_tensor(value, device=arguments.device) for name, value in np.load(arguments.data).items()}
    start = time.perf_counter()
    work = {"pool": pool, "loop": loop, "vmap": vmap, "bmm": bmm}[arguments.what](arguments, arrays)
    prepared = time.perf_counter() - start
    print("ready", flush=True)
    sys.stdin.readline()
    start, processor = time.perf_counter(), time.process_time()
    found = work()
    if arguments.device != "cpu":
        torch.cuda.synchronize()
    took = {"seconds": time.perf_counter() - start, "processor_s": time.process_time() - processor}
    print(json.dumps({**took, "compile_s": prepared, **found}), flush=True)


class Block(nn.Module):
    """The basic block of He et al. 2015, its shortcut projected where the shape changes."""

    def __init__(self, channels: int, features: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, features, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(features)
        projected = nn.Sequential(nn.Conv2d(channels, features, 1, stride, bias=False), nn.BatchNorm2d(features))
        self.shortcut = projected if stride != 1 or channels != features else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet8(channels: int, width: int, classes: int) -> nn.Module:
    """The network of `unlearn_jax.models.build("resnet8")`."""
    stem = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    blocks = [Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2)]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))


def pool(arguments: argparse.Namespace, arrays: dict[str, torch.Tensor]) -> Callable[[], dict]:
    """Train ResNets one after the other, SGD with a cosine schedule, every batch drawn as unlearn_jax draws it."""
    images = arrays["images"].permute(0, 3, 1, 2).contiguous(memory_format=getattr(torch, arguments.layout))
    labels, size = arrays["labels"].long(), arguments.batch_size
    classes = int(labels.max()) + 1
    network = resnet8(images.shape[1], arguments.width, classes)
    network = network.to(arguments.device, memory_format=getattr(torch, arguments.layout))  # type: ignore[call-overload]
    step = torch.compile(network) if arguments.compile else network

    def train(steps: int) -> None:
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        optimiser = torch.optim.SGD(network.parameters(), arguments.learning_rate, MOMENTUM, weight_decay=5e-4, foreach=True)
        warm = max(steps // 10, 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser,
            lambda at: at / warm if at < warm else 0.5 * (1 + np.cos(np.pi * (at - warm) / max(steps - warm, 1))),
        )
        network.train()
        order = torch.empty(0, dtype=torch.long)
        for _ in range(steps):
            if len(order) < size:
                order = torch.randperm(len(images), device=arguments.device)
            rows, order = order[:size], order[size:]
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(step(images[rows]), labels[rows]).backward()
            optimiser.step()
            schedule.step()

    def accuracy() -> float:
        network.eval()
        with torch.no_grad():
            answers = network(arrays["test_images"].permute(0, 3, 1, 2)).argmax(1)
        return float((answers == arrays["test_labels"]).float().mean())

    def work() -> dict:
        scores = []
        for _ in range(arguments.models):
            train(arguments.steps)
            scores.append(accuracy())
        return {"accuracy": float(np.mean(scores))}

    train(2)
    return work


def perceptron(width: int, device: str) -> nn.Module:
    """2 - width - width - 2, relu."""
    layers = nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)
    return nn.Sequential(*layers).to(device)


def loop(arguments: argparse.Namespace, arrays: dict[str, torch.Tensor]) -> Callable[[], dict]:
    """Leave-one-out of the toy, one model after the other: full batch, Adam."""
    points, labels = arrays["images"], arrays["labels"].long()

    def one(left_out: int, steps: int) -> None:
        network = perceptron(arguments.width, arguments.device)
        optimiser = torch.optim.Adam(network.parameters(), arguments.learning_rate, foreach=True)
        weights = torch.ones(len(points), device=arguments.device)
        weights[left_out] = 0
        weights /= weights.sum()
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=True)
            (weights * F.cross_entropy(network(points), labels, reduction="none")).sum().backward()
            optimiser.step()

    def work() -> dict:
        for left_out in range(arguments.models):
            one(left_out, arguments.steps)
        return {}

    one(0, 2)
    return work


def stacked(arguments: argparse.Namespace) -> list[torch.Tensor]:
    """Kernels and biases of equal networks, with a leading axis of models."""
    values = [value.detach() for value in perceptron(arguments.width, arguments.device).parameters()]
    return [value.expand(arguments.models, *value.shape).clone() for value in values]


def descend(gradient: Callable, arguments: argparse.Namespace, count: int) -> Callable[[], dict]:
    """Adam on stacked parameters; `gradient(parameters, weights)`, weights `[models, points]`. All of a step is compiled."""
    weights = torch.ones(arguments.models, count, device=arguments.device)
    weights[torch.arange(arguments.models), torch.arange(arguments.models)] = 0
    weights = weights / weights.sum(1, keepdim=True)

    def step(parameters: list, first: list, second: list, rate: torch.Tensor, bias: torch.Tensor) -> tuple:
        found = gradient(parameters, weights)
        first = [0.9 * m + 0.1 * g for m, g in zip(first, found, strict=True)]
        second = [0.999 * v + 0.001 * g * g for v, g in zip(second, found, strict=True)]
        moved = [p - rate * m / (torch.sqrt(v / bias) + 1e-8) for p, m, v in zip(parameters, first, second, strict=True)]
        return moved, first, second

    run: Callable[..., tuple] = torch.compile(step) if arguments.compile else step

    def train(steps: int) -> dict:
        state: tuple = stacked(arguments), *([torch.zeros_like(v) for v in stacked(arguments)] for _ in range(2))
        for at in range(1, steps + 1):
            rate = torch.tensor(arguments.learning_rate / (1 - 0.9**at), device=arguments.device)
            state = run(*state, rate, torch.tensor(1 - 0.999**at, device=arguments.device))
        return {}

    train(2)
    return lambda: train(arguments.steps)


def vmap(arguments: argparse.Namespace, arrays: dict[str, torch.Tensor]) -> Callable[[], dict]:
    """Leave-one-out of the toy by torch.func: the gradient of one model, mapped over all."""
    points, labels = arrays["images"], arrays["labels"].long()

    def loss(parameters: list, weights: torch.Tensor) -> torch.Tensor:
        (k1, b1, k2, b2, k3, b3) = parameters
        logits = F.linear(F.relu(F.linear(F.relu(F.linear(points, k1, b1)), k2, b2)), k3, b3)
        return (weights * F.cross_entropy(logits, labels, reduction="none")).sum()

    return descend(torch.func.vmap(torch.func.grad(loss)), arguments, len(points))


def bmm(arguments: argparse.Namespace, arrays: dict[str, torch.Tensor]) -> Callable[[], dict]:
    """Leave-one-out of the toy with forward and backward pass by hand, as batched products: PyTorch at its fastest."""
    points, labels = arrays["images"].expand(arguments.models, -1, -1), arrays["labels"].long()
    wanted = F.one_hot(labels, 2).float()

    def gradient(parameters: list, weights: torch.Tensor) -> list:
        (k1, b1, k2, b2, k3, b3) = parameters
        h1 = F.relu(torch.baddbmm(b1[:, None], points, k1.mT))
        h2 = F.relu(torch.baddbmm(b2[:, None], h1, k2.mT))
        error = weights[..., None] * (torch.softmax(torch.baddbmm(b3[:, None], h2, k3.mT), 2) - wanted)
        e2 = torch.bmm(error, k3) * (h2 > 0)
        e1 = torch.bmm(e2, k2) * (h1 > 0)
        return [e1.mT @ points, e1.sum(1), e2.mT @ h1, e2.sum(1), error.mT @ h2, error.sum(1)]

    return descend(gradient, arguments, points.shape[1])


if __name__ == "__main__":
    main()
