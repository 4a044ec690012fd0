"""Capture: train a small transformer of Spatial Sparse Attention on the voxels of a mesh, and take one layer's inputs.

The model learns rectified flow of the mesh's surface features (`bench.surface`): for noise eps and a time t it sees
(1 - t) x_0 + t eps and predicts eps - x_0. It is not a good generator, and need not be: it gives the operator queries,
keys and values that were shaped by training on the places where the tokens really are.

Legend: N tokens in layout order, M compression blocks, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernels
from bench.meshes import load_mesh
from bench.records import Shape
from bench.surface import FEATURES, surface_features
from bench.workloads import Floats, Tokens, make_tokens
from kernels.layout import BlockLayout
from kernels.testing import Inputs

LAYERS = 4
LAYER = 2  # whose inputs are captured
_FREQUENCIES = 16  # an axis
_LEARNING_RATE = 5e-4
_WARM_UP = 10  # steps
_MOST_GRADIENT = 1.0  # norm
_CAPTURED_TIME = 0.5
# Steps of this size, modulo 1, cover [0, 1] evenly after any number of them: the loss hangs on t, and its mean over a
# few steps is then no matter of luck.
_TIME_STEP = (math.sqrt(5) - 1) / 2

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Capture:
    """What a layer of the trained model feeds to the operator, and how the training went."""

    tokens: Tokens
    layout: BlockLayout
    inputs: Inputs  # in layout order, in the shape's dtype
    first_loss: float  # mean over the first tenth of the steps
    last_loss: float  # and over the last
    source: str  # the model in one sentence, for the file


def capture_inputs(
    spec: str,
    tokens: int,
    shape: Shape,
    *,
    device: torch.device | str,
    steps: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Capture:
    """Train on a mesh's voxels, then run once at t = 0.5 and take the inputs of the third of four layers.

    Parameters are fp32; on CUDA the linear layers and the operator run in bf16. Losses and inputs are the same for one
    seed on one CPU; on a GPU as far as PyTorch's own kernels are deterministic.

    Args:
        spec: "mesh:NAME" of a shipped mesh or "mesh:PATH" of a file.
        shape: of the operator; its dtype is that of the captured tensors.
        steps: of training.
        progress: called as work goes on with what it is, steps done and steps in all; once more at the end.

    Raises:
        ValueError: no mesh, or a count or shape that cannot be.
    """
    kind, _, name = spec.partition(":")
    if kind != "mesh" or not name:
        raise ValueError(f"capture needs the surface of a mesh: workload must be mesh:NAME or mesh:PATH, got {spec!r}")
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    report = progress or (lambda message, done, total: None)
    report("voxels and their surface", 0, steps)
    found = make_tokens(spec, tokens, None)
    scene = _scene(found, surface_features(load_mesh(name), found), shape, torch.device(device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # parameters are drawn on the CPU
        model = FlowTransformer(shape).to(device)
    losses = _train(model, scene, steps, seed, report)
    report("done", steps, steps)

    with torch.no_grad(), _autocast(scene.device):
        generator = torch.Generator().manual_seed(seed + 1)
        noisy, _ = scene.at(_CAPTURED_TIME, generator)
        _, operands = model(noisy, _CAPTURED_TIME, scene)
    dtype = getattr(torch, shape.dtype)
    tenth = max(1, steps // 10)
    first, last = (sum(part) / tenth for part in (losses[:tenth], losses[-tenth:]))
    return Capture(
        tokens=found,
        layout=scene.layout,
        inputs=Inputs(*(x.to(dtype) for x in operands[LAYER].tensors())),
        first_loss=first,
        last_loss=last,
        source=(
            f"layer {LAYER + 1} of {LAYERS} of a transformer of width {shape.heads * shape.head_dim} at t = "
            f"{_CAPTURED_TIME}, trained for {steps} steps (seed {seed}) on rectified flow of the surface features of "
            f"{found.name} on these tokens, loss {first:.3f} to {last:.3f}, top-k {shape.topk}, selection blocks "
            f"{shape.selection_block}, windows {shape.window} shifted by {shape.window_shift}"
        ),
    )


@dataclass(frozen=True, eq=False)
class Scene:
    """The tokens as the model sees them, all in layout order and on one device."""

    layout: BlockLayout
    topk: int
    features: Tensor  # fp32 [N, F]: x_0
    position: Tensor  # fp32 [N, 6 _FREQUENCIES]: encoded voxel centres
    place: Tensor  # int64 [N]: place of the voxel in its compression block
    block_offsets: Tensor  # int64 [M + 1]: first token of each compression block

    @property
    def device(self) -> torch.device:
        return self.layout.device

    def at(self, t: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Noisy features and the velocity to predict, fp32 [N, F]; noise is the same on every machine."""
        noise = torch.randn(self.features.shape, generator=generator).to(self.device)
        return (1 - t) * self.features + t * noise, noise - self.features


class FlowTransformer(nn.Module):
    """Predicts a velocity [N, F] from noisy features [N, F] at a time."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.heads * shape.head_dim
        self.features = nn.Linear(FEATURES, width)
        self.position = _mlp(6 * _FREQUENCIES, width, width)
        self.time = _mlp(2 * _FREQUENCIES, width, width)
        self.attention = nn.ModuleList(_Attention(shape) for _ in range(LAYERS))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), _mlp(width, 4 * width, width)) for _ in range(LAYERS)
        )
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, FEATURES))

    def forward(self, noisy: Tensor, t: float, scene: Scene) -> tuple[Tensor, list[Inputs]]:
        """The velocity, and what each layer fed to the operator."""
        time = _waves(torch.tensor([[t]], device=noisy.device), math.pi, 1000 * math.pi)
        x = (self.features(noisy) + self.position(scene.position) + self.time(time)).float()
        operands = []
        for attention, mlp in zip(self.attention, self.mlp, strict=True):
            o, inputs = attention(x, scene)
            operands.append(inputs)
            x = x + o
            x = x + mlp(x)
        return self.out(x), operands


class _Attention(nn.Module):
    """Pre-norm Spatial Sparse Attention, with compression as arXiv 2505.17412, section 3.3, and its first code do it:
    keys get an encoding of their place in the block; a linear layer, SiLU, and the mean over the block follow.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.heads = shape.heads, shape.head_dim
        self.kv_heads = shape.kv_heads, shape.head_dim
        self.norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, kv_width)
        self.v = nn.Linear(width, kv_width)
        self.gates = nn.Linear(width, 3)
        self.place = nn.Parameter(0.02 * torch.randn(shape.compression_block**3, kv_width))
        self.compress_k = nn.Linear(kv_width, kv_width)
        self.compress_v = nn.Linear(kv_width, kv_width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, scene: Scene) -> tuple[Tensor, Inputs]:
        inputs = self.operands(x, scene)
        o = kernels.spatial_sparse_attention(*inputs.tensors(), scene.layout, topk=scene.topk)
        return self.out(o.flatten(1)), inputs

    def operands(self, x: Tensor, scene: Scene) -> Inputs:
        x = self.norm(x)
        q, k, v = self.q(x), self.k(x), self.v(x)

        def compress(y: Tensor, layer: nn.Module) -> Tensor:
            wide = F.silu(layer(y)).float()
            mean = torch.segment_reduce(wide, "mean", offsets=scene.block_offsets, axis=0)  # no atomics, either way
            return mean.to(q.dtype).unflatten(1, self.kv_heads)

        return Inputs(
            q=q.unflatten(1, self.heads),
            k=k.unflatten(1, self.kv_heads),
            v=v.unflatten(1, self.kv_heads),
            k_cmp=compress(k + self.place[scene.place], self.compress_k),
            v_cmp=compress(v, self.compress_v),
            gates=self.gates(x).sigmoid(),
        )


def _train(model: FlowTransformer, scene: Scene, steps: int, seed: int, report: Progress) -> list[float]:
    """The loss of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / _WARM_UP))
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    for step in range(steps):
        t = step * _TIME_STEP % 1.0
        noisy, velocity = scene.at(t, generator)
        with _autocast(scene.device):
            predicted, _ = model(noisy, t, scene)
        loss = F.mse_loss(predicted.float(), velocity)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), _MOST_GRADIENT)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        report(f"training, loss {losses[-1]:.3f}", step + 1, steps)
    return losses


def _scene(tokens: Tokens, features: Floats, shape: Shape, device: torch.device) -> Scene:
    layout = BlockLayout.from_coords(
        tokens.coords,
        resolution=tokens.resolution,
        compression_block=shape.compression_block,
        selection_block=shape.selection_block,
        window=shape.window,
        window_shift=shape.window_shift,
    )
    coords = layout.coords[:, 1:].long()
    side = shape.compression_block
    x, y, z = (coords % side).unbind(1)
    centres = (2 * coords + 1) / tokens.resolution - 1
    position = _waves(centres, math.pi, math.pi * max(tokens.resolution / 2, 2))  # down to two voxels a wave
    return Scene(
        layout=layout.to(device),
        topk=shape.topk,
        features=layout.sort(torch.from_numpy(features)).float().to(device),
        position=position.to(device),
        place=((x * side + y) * side + z).to(device),
        block_offsets=layout.compression_offsets.long().to(device),
    )


def _waves(x: Tensor, slowest: float, fastest: float) -> Tensor:
    """fp32 [N, 2 A _FREQUENCIES]: sines and cosines of x [N, A] at angular frequencies in geometric steps."""
    steps = torch.arange(_FREQUENCIES, device=x.device) / (_FREQUENCIES - 1)
    angles = x.float()[..., None] * slowest * (fastest / slowest) ** steps
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


def _autocast(device: torch.device) -> torch.autocast:
    """Matrix products in bf16 where there are units for it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")
