"""The point encoders again, cloud by cloud and point by point in NumPy's fp64, from nothing but a state_dict.

Written from the papers and the published code's behaviour, sharing nothing with `eval.encoders`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
State = dict[str, Array]


def farthest(points: Array, count: int, skip_origin: bool) -> list[int]:
    chosen = [0]
    while len(chosen) < count:
        best, best_distance = 0, -1.0
        for i, point in enumerate(points):
            if skip_origin and float(point @ point) <= 1e-3:
                continue
            distance = min(float(((point - points[j]) ** 2).sum()) for j in chosen)
            if distance > best_distance:
                best, best_distance = i, distance
        chosen.append(best)
    return chosen


def nearest(points: Array, centre: Array, count: int) -> list[int]:
    return sorted(range(len(points)), key=lambda i: float(((points[i] - centre) ** 2).sum()))[:count]


def ball(points: Array, centre: Array, radius: float, count: int) -> list[int]:
    inside = [i for i, point in enumerate(points) if float(((point - centre) ** 2).sum()) <= radius**2]
    return (inside + [inside[0]] * count)[:count]


def linear(x: Array, state: State, name: str) -> Array:
    weight = state[f"{name}.weight"]
    y = x @ weight.reshape(weight.shape[0], weight.shape[1]).T
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def layer_norm(x: Array, state: State, name: str, eps: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def batch_norm(x: Array, state: State, name: str) -> Array:
    scaled = (x - state[f"{name}.running_mean"]) / np.sqrt(state[f"{name}.running_var"] + 1e-5)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def attention(q: Array, k: Array, v: Array, heads: int) -> Array:
    size = q.shape[1] // heads
    parts = []
    for h in range(heads):
        of = slice(h * size, (h + 1) * size)
        logits = q[:, of] @ k[:, of].T / math.sqrt(size)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        parts.append(weights / weights.sum(1, keepdims=True) @ v[:, of])
    return np.concatenate(parts, 1)


def mini_pointnet(members: Array, state: State, name: str) -> Array:
    """One group [K, C] to its feature."""
    x = linear(members, state, f"{name}.first_conv.0")
    x = linear(np.maximum(batch_norm(x, state, f"{name}.first_conv.1"), 0), state, f"{name}.first_conv.3")
    x = np.concatenate([np.repeat(x.max(0)[None], len(x), 0), x], 1)
    x = linear(x, state, f"{name}.second_conv.0")
    x = linear(np.maximum(batch_norm(x, state, f"{name}.second_conv.1"), 0), state, f"{name}.second_conv.3")
    return x.max(0)


def positions(centres: Array, state: State, name: str) -> Array:
    return linear(gelu(linear(centres, state, f"{name}.0")), state, f"{name}.2")


def point_bert_tokens(cloud: Array, state: State, groups: int, size: int, colours: bool) -> tuple[Array, Array]:
    """Features of the groups [G, C] and their centres [G, 3]."""
    xyz = cloud[:, :3]
    centres = xyz[farthest(xyz, groups, skip_origin=True)]
    features = []
    for centre in centres:
        members = nearest(xyz, centre, size)
        offsets = xyz[members] - centre
        inputs = np.concatenate([offsets, cloud[members, 3:]], 1) if colours else offsets
        features.append(mini_pointnet(inputs, state, "point_encoder.encoder"))
    return np.array(features), centres


def uni3d(cloud: Array, state: State, *, depth: int, heads: int, groups: int, size: int) -> Array:
    p = "point_encoder"
    features, centres = point_bert_tokens(cloud, state, groups, size, colours=True)
    tokens = linear(features, state, f"{p}.encoder2trans") + positions(centres, state, f"{p}.pos_embed")
    x = np.concatenate([(state[f"{p}.cls_token"] + state[f"{p}.cls_pos"])[0], tokens])
    for i in range(depth):
        b = f"{p}.visual.blocks.{i}"
        y = layer_norm(x, state, f"{b}.norm1", 1e-6)
        if f"{b}.attn.qkv.weight" in state:
            q, k, v = np.split(linear(y, state, f"{b}.attn.qkv"), 3, 1)
            q, v = q + state[f"{b}.attn.q_bias"], v + state[f"{b}.attn.v_bias"]
        else:
            q, k, v = (linear(y, state, f"{b}.attn.{name}_proj") for name in "qkv")
        x = x + linear(attention(q, k, v, heads), state, f"{b}.attn.proj")
        y = layer_norm(x, state, f"{b}.norm2", 1e-6)
        if f"{b}.mlp.fc1_g.weight" in state:
            y = silu(linear(y, state, f"{b}.mlp.fc1_g")) * linear(y, state, f"{b}.mlp.fc1_x")
            y = layer_norm(y, state, f"{b}.mlp.norm", 1e-6)
        else:
            y = linear(y, state, f"{b}.mlp.fc1")
            if y.shape[1] == state[f"{b}.mlp.fc2.weight"].shape[1]:
                y = gelu(y)
            else:
                gate, value = np.split(y, 2, 1)
                y = silu(gate) * value
        x = x + linear(y, state, f"{b}.mlp.fc2")
    return linear(layer_norm(x[0], state, f"{p}.visual.fc_norm", 1e-6), state, f"{p}.trans2embed")


def ulip(cloud: Array, state: State, *, depth: int, heads: int, groups: int, size: int, colours: bool) -> Array:
    p = "point_encoder"
    features, centres = point_bert_tokens(cloud, state, groups, size, colours)
    x = np.concatenate([state[f"{p}.cls_token"][0], linear(features, state, f"{p}.reduce_dim")])
    position = np.concatenate([state[f"{p}.cls_pos"][0], positions(centres, state, f"{p}.pos_embed")])
    for i in range(depth):
        b = f"{p}.blocks.blocks.{i}"
        x = x + position
        q, k, v = np.split(linear(layer_norm(x, state, f"{b}.norm1", 1e-5), state, f"{b}.attn.qkv"), 3, 1)
        x = x + linear(attention(q, k, v, heads), state, f"{b}.attn.proj")
        y = gelu(linear(layer_norm(x, state, f"{b}.norm2", 1e-5), state, f"{b}.mlp.fc1"))
        x = x + linear(y, state, f"{b}.mlp.fc2")
    x = layer_norm(x, state, f"{p}.norm", 1e-5)
    return np.concatenate([x[0], x[1:].max(0)]) @ state["pc_projection"]


def openshape(cloud: Array, state: State, *, depth: int, heads: int, groups: int, radius: float, size: int) -> Array:
    p = "ppat." if "proj.weight" in state else ""
    xyz = cloud[:, :3]
    tokens = [state[f"{p}cls_token"]]
    for index in farthest(xyz, groups, skip_origin=False):
        members = ball(xyz, xyz[index], radius, size)
        x = np.concatenate([xyz[members] - xyz[index], cloud[members]], 1)
        for layer in range(3):
            x = np.maximum(batch_norm(linear(x, state, f"{p}sa.mlp_convs.{layer}"), state, f"{p}sa.mlp_bns.{layer}"), 0)
        lifted = linear(np.concatenate([xyz[index], x.max(0)]), state, f"{p}lift.0")
        tokens.append(layer_norm(lifted, state, f"{p}lift.2", 1e-5))
    x = np.array(tokens)
    for i in range(depth):
        b = f"{p}transformer.layers.{i}"
        y = linear(layer_norm(x, state, f"{b}.0.norm", 1e-5), state, f"{b}.0.fn.to_qkv")
        q, k, v = np.split(y, 3, 1)
        x = x + linear(attention(q, k, v, heads), state, f"{b}.0.fn.to_out.0")
        y = gelu(linear(layer_norm(x, state, f"{b}.1.norm", 1e-5), state, f"{b}.1.fn.net.0"))
        x = x + linear(y, state, f"{b}.1.fn.net.3")
    return linear(x[0], state, "proj") if p else x[0]
