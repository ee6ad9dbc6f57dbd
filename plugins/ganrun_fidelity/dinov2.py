"""DINOv2's features (Oquab et al. 2023, arXiv:2304.07193): self-supervised, and closer to human judgement than
Inception's (Stein et al. 2023, arXiv:2306.04675).

The vision transformer is written out here, for evaluation only, because the published code is downloaded at run time.
It reads the published state dicts.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ganrun_fidelity.pretrained import IMAGENET, Normalised, Pretrained
from ganrun_fidelity.resizing import resize_as_pillow
from ganrun_fidelity.weights import Published

PATCH, TRAINED_SIDE, SIDE = 14, 518, 224
OFFSET = 0.1
"""Added to the grid's sides before positions are interpolated, as in the published code."""


class Shape(NamedTuple):
    """The shape of a published transformer, and the size of its file."""

    width: int
    blocks: int
    heads: int
    gated: bool
    size: str


SHAPES = {
    "dinov2-vit-s-14": Shape(384, 12, 6, False, "88 MB"),
    "dinov2-vit-b-14": Shape(768, 12, 12, False, "346 MB"),
    "dinov2-vit-l-14": Shape(1024, 24, 16, False, "1.2 GB"),
    "dinov2-vit-g-14": Shape(1536, 40, 24, True, "4.5 GB"),
}


class DinoV2(Pretrained):
    """A transformer of DINOv2: its class token after the last norm.

    Pictures are resized as for the FD-DINOv2 of Stein et al. 2023 and their code, dgm-eval: by Pillow, bicubic. EDM2's
    (Karras et al. 2024, arXiv:2312.02696) resize likewise without rounding, which changes scores a little;
    torch-fidelity's resize as for Inception, which changes them much.
    """

    shape: Shape
    side = SIDE
    resizing = "bicubic to {side}×{side}, as Pillow and dgm-eval: antialiased, rounded to 8 bits"

    @property
    def key(self) -> str:
        """Also the resizing, which was another in 0.1.0."""
        return f"{super().key}/{self.resizing}"

    @classmethod
    def network(cls, path: Path) -> nn.Module:
        """The transformer of this shape."""
        return Normalised(cls.published.load(lambda: Transformer(cls.shape), path), SIDE, *IMAGENET, resize_as_pillow)


def extractors() -> dict[str, type[DinoV2]]:
    """An extractor for each published transformer, by torch-fidelity's names."""
    return {name: _extractor(name, shape) for name, shape in SHAPES.items()}


def _extractor(name: str, shape: Shape) -> type[DinoV2]:
    model = f"dinov2_vit{name.split('-')[2]}14"
    url = f"https://dl.fbaipublicfiles.com/dinov2/{model}/{model}_pretrain.pth"
    summary = f"DINOv2's transformer {name.removeprefix('dinov2-')}: its class token, {shape.width:,} features."
    about = {"__doc__": summary, "__module__": __name__, "suffix": name, "name": name, "shape": shape}
    return type(name, (DinoV2,), {**about, "published": Published(f"DINOv2's {model}", name, url, shape.size)})


# ── The transformer; names are those of the published state dicts ──────────────────────────────────────────


class Transformer(nn.Module):
    """Patches of 14×14 pixels, a class token, positions, blocks, and a norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, side = shape.width, TRAINED_SIDE // PATCH
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.blocks))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """Features `(batch, width)` of normalised images `(batch, 3, height, width)`; sides are multiples of 14."""
        patches = self.patch_embed["proj"](images)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).mT], dim=1)
        tokens = tokens + self._positions(*patches.shape[2:])
        for block in self.blocks:
            tokens = block(tokens)
        features: Tensor = self.norm(tokens)[:, 0]
        return features

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The learned positions, interpolated to this grid of patches."""
        own, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        side = TRAINED_SIDE // PATCH
        if (rows, columns) == (side, side):
            return self.pos_embed
        planes = grid.mT.reshape(1, -1, side, side)
        scale = ((rows + OFFSET) / side, (columns + OFFSET) / side)
        resized = F.interpolate(planes, scale_factor=scale, mode="bicubic", antialias=False)
        return torch.cat([own, resized.flatten(2).mT], dim=1)


class _Block(nn.Module):
    """Attention and a dense part, both residual, each after a norm and before a scale."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width, shape.heads)
        self.ls1, self.ls2 = _Scale(width), _Scale(width)
        self.mlp = _Gated(width) if shape.gated else _Dense(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        changed: Tensor = tokens + self.ls2(self.mlp(self.norm2(tokens)))
        return changed


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        parts = self.qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


class _Dense(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return out


class _Gated(nn.Module):
    """SwiGLU (arXiv:2002.05202), at two thirds of the hidden width, rounded up to a multiple of 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = (8 * width // 3 + 7) // 8 * 8
        self.w12, self.w3 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        gate, value = self.w12(tokens).chunk(2, dim=-1)
        out: Tensor = self.w3(F.silu(gate) * value)
        return out


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma
