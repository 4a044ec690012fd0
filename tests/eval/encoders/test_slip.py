"""SLIP's towers as ULIP's files hold them, against the layers that SLIP's authors wrote them with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from eval.encoders.catalogue import SLIP_B
from eval.encoders.clip import ClipError, load_clip
from eval.encoders.slip import load_slip

pytest.importorskip("open_clip")
timm = pytest.importorskip("timm")

WIDTH, LAYERS, HEADS = 512, 12, 8


def random_towers() -> tuple[dict[str, Tensor], nn.Module]:
    """Parameters by SLIP's names, and the image tower alone."""
    visual = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    state = {f"visual.{key}": value for key, value in visual.state_dict().items()}
    shapes = {"token_embedding.weight": (49408, WIDTH), "positional_embedding": (77, WIDTH)}
    shapes |= {"image_projection": (192, 512), "text_projection": (WIDTH, 512)}
    shapes |= {"ln_final.weight": (WIDTH,), "ln_final.bias": (WIDTH,)}
    for i in range(LAYERS):
        block = f"transformer.resblocks.{i}"
        shapes |= {f"{block}.ln_{n}.{p}": (WIDTH,) for n in (1, 2) for p in ("weight", "bias")}
        shapes |= {f"{block}.attn.in_proj_weight": (3 * WIDTH, WIDTH), f"{block}.attn.in_proj_bias": (3 * WIDTH,)}
        shapes |= {f"{block}.attn.out_proj.weight": (WIDTH, WIDTH), f"{block}.attn.out_proj.bias": (WIDTH,)}
        shapes |= {f"{block}.mlp.c_fc.weight": (4 * WIDTH, WIDTH), f"{block}.mlp.c_fc.bias": (4 * WIDTH,)}
        shapes |= {f"{block}.mlp.c_proj.weight": (WIDTH, 4 * WIDTH), f"{block}.mlp.c_proj.bias": (WIDTH,)}
    return state | {key: torch.randn(shape) * shape[-1] ** -0.5 for key, shape in shapes.items()}, visual


def plain_text(tokens: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Embedding [512] of one text's tokens [77]."""
    x = state["token_embedding.weight"][tokens] + state["positional_embedding"]
    later = torch.triu(torch.ones(77, 77, dtype=torch.bool), 1)

    def norm(x: Tensor, name: str) -> Tensor:
        return nn.functional.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"])

    for i in range(LAYERS):
        block = f"transformer.resblocks.{i}"
        attention = nn.MultiheadAttention(WIDTH, HEADS)
        attention.load_state_dict(
            {key.removeprefix(f"{block}.attn."): v for key, v in state.items() if key.startswith(f"{block}.attn.")}
        )
        y = norm(x, f"{block}.ln_1")
        x = x + attention(y, y, y, attn_mask=later, need_weights=False)[0]
        y = norm(x, f"{block}.ln_2") @ state[f"{block}.mlp.c_fc.weight"].T + state[f"{block}.mlp.c_fc.bias"]
        y = y * torch.sigmoid(1.702 * y)
        x = x + y @ state[f"{block}.mlp.c_proj.weight"].T + state[f"{block}.mlp.c_proj.bias"]
    return norm(x, "ln_final")[tokens.argmax()] @ state["text_projection"]


@torch.no_grad()
def test_both_towers_compute_what_slips_layers_do(tmp_path: Path) -> None:
    state, visual = random_towers()
    others = {"pc_projection": torch.zeros(768, 512), "logit_scale": torch.zeros(())}
    path = tmp_path / "ulip.pt"
    torch.save({"state_dict": {f"module.{key}": value for key, value in (state | others).items()}}, path)
    model, preprocess, tokenise = load_slip(path, trunk="vit_tiny_patch16_224")
    model.eval()
    pixels = preprocess(Image.effect_noise((300, 260), 90).convert("RGB"))[None]
    assert pixels.shape == (1, 3, 224, 224)
    expected = visual(pixels) @ state["image_projection"]
    torch.testing.assert_close(model.encode_image(pixels), expected, rtol=1e-4, atol=1e-4)
    tokens = tokenise(["a wooden chair", "mug"])
    expected = torch.stack([plain_text(row, state) for row in tokens])
    torch.testing.assert_close(model.encode_text(tokens), expected, rtol=1e-4, atol=1e-4)


def test_a_file_without_the_towers_is_refused(tmp_path: Path) -> None:
    torch.save({"pc_projection": torch.zeros(768, 512)}, tmp_path / "m.pt")
    with pytest.raises(ClipError, match=r"does not hold SLIP's towers: \d+ missing \(positional_embedding, "):
        load_clip(SLIP_B, tmp_path / "m.pt")


def test_the_file_must_be_given() -> None:
    with pytest.raises(ClipError, match=r"they are only to be had as a file.*; download them from .*8k-xyz-pc-slip"):
        load_clip(SLIP_B)
