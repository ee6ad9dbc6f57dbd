"""Extractors with published weights: torch-fidelity's features, from the same files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ganrun import Extractor, IncompatibleError, ModelSpec, PreflightError
from ganrun.testing import assert_conforms
from ganrun_fidelity import ganrun_extractors
from ganrun_fidelity.clip import ENCODERS, URL
from ganrun_fidelity.dinov2 import SHAPES, Shape, Transformer
from ganrun_fidelity.weights import Published

CPU = torch.device("cpu")
COLOUR = ModelSpec((3, 40, 40), classes=4, latent_size=2)
EXTRACTORS = ganrun_extractors()


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pictures(count: int) -> Tensor:
    return torch.randint(256, (count, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def prepared(name: str, weights: Path) -> Extractor:
    component = EXTRACTORS[name]
    extractor = component(component.Settings(weights=str(weights)), COLOUR)
    extractor.prepare(None, CPU)
    return extractor


def test_there_is_every_extractor_of_torch_fidelity() -> None:
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    theirs = {name for name in FEATURE_EXTRACTORS_REGISTRY if not name.startswith("inception")} - {"small"}
    assert theirs | {"inception", "classifier", "lpips"} == set(EXTRACTORS)


def test_clips_files_are_those_of_torch_fidelity() -> None:
    from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS

    assert {name: f"{URL}/{each.sha256}/{each.file}" for name, each in ENCODERS.items()} == MODEL_URLS
    assert {name: each.sha256 for name, each in ENCODERS.items()} == {n: m["hash"] for n, m in MODEL_METADATA.items()}


@pytest.fixture(scope="module")
def vgg_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models import vgg16

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "random.pth"
    torch.save(vgg16().state_dict(), path)
    return path


def test_vgg16_is_torch_fidelitys(vgg_weights: Path) -> None:
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    theirs = FeatureExtractorVGG16("vgg16", ["fc2_relu"], feature_extractor_weights_path=str(vgg_weights))
    with torch.no_grad():
        (expected,) = theirs(pictures(3))
    found = prepared("vgg16", vgg_weights)(pictures(3))["features"]
    assert found.shape == (3, 4096) and expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.max()))


def test_weights_in_half_precision_are_used_and_other_tensors_refused(tmp_path: Path) -> None:
    published = Published("the small network", "small", "https://example.org/small.pth", "1 kB")
    state = {name: each.half() for name, each in nn.Linear(2, 3).state_dict().items()}
    torch.save(state, tmp_path / "half.pth")
    loaded = published.load(partial(nn.Linear, 2, 3), tmp_path / "half.pth").state_dict()
    assert all(torch.equal(loaded[name], each.float()) for name, each in state.items())
    weight = state["weight"].float()
    for odd in (weight.to_sparse(), weight.to("meta"), weight.to(torch.complex64), weight.int()):
        torch.save({**state, "weight": odd}, tmp_path / "odd.pth")
        with pytest.raises(PreflightError, match=rf"odd\.pth does not hold .*'s weights: weight is {odd.dtype}"):
            published.load(partial(nn.Linear, 2, 3), tmp_path / "odd.pth")


class _Archived(nn.Module):
    """A CLIP of the given visual shape, with the other parts that the loader reads."""

    def __init__(self, layers: int | tuple[int, int, int, int], patch: int | None) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_clip import CLIPVisual

        self.visual = CLIPVisual(16, 64, layers, 64, patch).visual
        self.text_projection = nn.Parameter(torch.randn(8, 16))

    def forward(self, images: Tensor) -> Tensor:
        return self.visual(images) @ self.text_projection.T


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("name", "layers", "patch"), [("clip-vit-b-32", 2, 16), ("clip-rn50", (1, 1, 1, 1), None)])
def test_clip_is_torch_fidelitys(name: str, layers: object, patch: int | None, tmp_path: Path) -> None:
    from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP

    torch.manual_seed(0)
    archived = _Archived(layers, patch).eval()
    for each in archived.visual.parameters():
        nn.init.normal_(each, std=0.05)
    torch.jit.trace(archived, torch.randn(1, 3, 64, 64)).save(str(tmp_path / "archive.pt"))
    torch.save(archived.state_dict(), tmp_path / "plain.pth")
    theirs = FeatureExtractorCLIP(name, ["clip"], feature_extractor_weights_path=str(tmp_path / "archive.pt"))
    with torch.no_grad():
        (expected,) = theirs(pictures(5))
    found = prepared(name, tmp_path / "plain.pth")(pictures(5))["features"]
    assert_conforms("extractor", EXTRACTORS[name], {"weights": str(tmp_path / "plain.pth")})
    assert found.shape == (5, 16) and expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", sorted(set(EXTRACTORS) - {"classifier"}))
def test_missing_weights_and_other_files_are_reported_with_the_steps_that_fix_it(name: str, tmp_path: Path) -> None:
    component = EXTRACTORS[name]
    published = component.published
    with pytest.raises(PreflightError) as fault:
        component(component.Settings(), COLOUR).prepare(None, CPU)
    message = fault.value.message
    assert published.url in message and str(tmp_path / "torch/hub/checkpoints") in message
    assert f'use = "{name}"' in message and "weights = " in message
    if published.sha256:
        published.usual_path.parent.mkdir(parents=True)
        published.usual_path.write_bytes(b"<html>")
        with pytest.raises(PreflightError, match="not the published file"):
            component(component.Settings(), COLOUR).prepare(None, CPU)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(PreflightError, match=r"other\.pth does not hold"):
        prepared(name, tmp_path / "other.pth")
    with pytest.raises(IncompatibleError, match="1 or 3 channels, not 4"):
        component(component.Settings(), ModelSpec((4, 40, 40)))


@pytest.mark.parametrize(
    ("gated", "first", "last"),
    [
        (False, [0.387397, 0.054544, -0.172308, -0.012771, 0.314074], [-0.17372, 0.249367, -0.024015, -0.167122]),
        (True, [0.000879, -0.201962, -0.360486, 0.036502, -0.137054], [0.196443, -0.399061, 6.6e-05, 0.066626]),
    ],
)
def test_dinov2_is_the_published_code(gated: bool, first: list[float], last: list[float]) -> None:
    """The numbers are what facebookresearch/dinov2 gave for these weights and images, at 224×224 of its 518×518."""
    transformer = Transformer(Shape(48, 2, 4, gated, ""))
    names = sorted(transformer.state_dict())
    random = torch.Generator().manual_seed(5)
    shapes = {name: value.shape for name, value in transformer.state_dict().items()}
    transformer.load_state_dict({name: 0.2 * torch.randn(shapes[name], generator=random) for name in names})
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        found = transformer(images)
    torch.testing.assert_close(found[0, :5], torch.tensor(first), rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(found[1, -4:], torch.tensor(last), rtol=1e-4, atol=2e-6)


def test_dinov2s_shapes_are_the_published_ones() -> None:
    """Parameters in millions, as their publisher counts them."""
    with torch.device("meta"):
        counts = [sum(each.numel() for each in Transformer(shape).parameters()) / 1e6 for shape in SHAPES.values()]
    assert counts == pytest.approx([21, 86, 300, 1100], rel=0.06)
