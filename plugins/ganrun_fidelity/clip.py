"""The image encoders of CLIP (Radford et al. 2021, arXiv:2103.00020), with torch-fidelity's networks."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ganrun_fidelity.pretrained import Normalised, Pretrained
from ganrun_fidelity.weights import Published

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of each channel, for pictures in [0, 1]: what OpenAI's encoders expect."""

URL = "https://openaipublic.azureedge.net/clip/models"


class Encoder(NamedTuple):
    """A published encoder."""

    file: str
    size: str
    side: int
    sha256: str


ENCODERS = {
    "clip-rn50": Encoder("RN50.pt", "244 MB", 224, "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"),
    "clip-rn101": Encoder(
        "RN101.pt", "278 MB", 224, "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599"
    ),
    "clip-rn50x4": Encoder(
        "RN50x4.pt", "402 MB", 288, "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd"
    ),
    "clip-rn50x16": Encoder(
        "RN50x16.pt", "630 MB", 384, "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa"
    ),
    "clip-rn50x64": Encoder(
        "RN50x64.pt", "1.3 GB", 448, "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c"
    ),
    "clip-vit-b-32": Encoder(
        "ViT-B-32.pt", "338 MB", 224, "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
    ),
    "clip-vit-b-16": Encoder(
        "ViT-B-16.pt", "335 MB", 224, "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
    ),
    "clip-vit-l-14": Encoder(
        "ViT-L-14.pt", "890 MB", 224, "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"
    ),
    "clip-vit-l-14-336px": Encoder(
        "ViT-L-14-336px.pt", "891 MB", 336, "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"
    ),
}


class Clip(Pretrained):
    """An image encoder of CLIP: its embedding of the picture, before normalisation.

    OpenAI's published files are TorchScript archives. Only their tensors are read, and only if the file's SHA-256 is
    the published one. A file named by `weights` holds a state dict.
    """

    package = "torch-fidelity"

    @classmethod
    def network(cls, path: Path) -> nn.Module:
        """torch-fidelity's network, in the shape of the weights."""
        from torch_fidelity.feature_extractor_clip import build_model

        state = cls.published.state(path) if path != cls.published.usual_path else _tensors_of_archive(path)
        try:
            visual = build_model(state, torch.float32).visual
        except Exception as error:  # its shape follows from the names and shapes of the weights, which may be any
            raise cls.published.mismatch(path, str(error)) from error
        return Normalised(visual, int(visual.input_resolution), MEAN, DEVIATION)


def _tensors_of_archive(path: Path) -> dict[str, Tensor]:
    """The tensors of a published archive. Loading one runs its code, so its SHA-256 must have been checked."""
    archive: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    return dict(archive.state_dict())


def extractors() -> dict[str, type[Clip]]:
    """An extractor for each published encoder, by torch-fidelity's names."""
    return {name: _extractor(name, encoder) for name, encoder in ENCODERS.items()}


def _extractor(name: str, encoder: Encoder) -> type[Clip]:
    url = f"{URL}/{encoder.sha256}/{encoder.file}"
    published = Published(f"CLIP's encoder {name.removeprefix('clip-')}", name, url, encoder.size, encoder.sha256)
    summary = f"CLIP's image encoder {name.removeprefix('clip-')}: its embedding of the picture."
    about = {"__doc__": summary, "__module__": __name__, "suffix": name, "name": name, "side": encoder.side}
    return type(name, (Clip,), {**about, "published": published})
