"""The state of networks: what a run averages, writes, and restores; and what is refused before it starts."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ganrun import Data, DataSpec, Discriminator, Generator, IncompatibleError, Split, hookimpl
from ganrun.base.modules import copied, to_device
from ganrun.rehearsal.state import check_state
from ganrun.rundir.checkpoints import read_weights, write_weights
from ganrun.testing import assert_conforms, build, registry_with, train
from ganrun.trained.loading import find_saved_model
from ganrun.training.averaging import Average

CPU = torch.device("cpu")


def hooked(norm, *arguments):
    """A layer normalised by one of torch's old norms, which warn that there are new ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return norm(*arguments)


# ── Averages ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("norm", [spectral_norm, nn.utils.spectral_norm])
def test_the_average_of_a_spectrally_normalised_network_has_spectral_norm_1(norm):
    """The direction of the largest singular value turns while the network trains, as those of near-orthogonal weights
    do: averaged, the vectors of the power iteration would shrink, and the spectral norm would be 5.6."""
    torch.manual_seed(0)
    layer = nn.Linear(24, 24)
    nn.init.orthogonal_(layer.weight)
    start = layer.weight.detach().clone()
    network = hooked(norm, layer)
    average, (weight,) = Average(network, decay=0.99), (p for p in network.parameters() if p.dim() == 2)
    for step in range(1, 1000):
        if step % 10 == 1:
            weight.data = start + 0.1 * torch.randn(24, 24) / 24**0.5
        network(torch.zeros(1, 24))
        average.update(step)
    average.module(torch.zeros(1, 24))  # the hook of the old one computes the weight
    assert torch.linalg.matrix_norm(average.module.weight, 2).item() == pytest.approx(1, abs=0.05)


class Kinds(nn.Module):
    """One tensor of each kind."""

    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm1d(2, track_running_stats=True)
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.register_buffer("codes", torch.zeros(2))
        self.register_buffer("hidden", torch.zeros(2), persistent=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("wave", torch.zeros(2, dtype=torch.complex64))
        self.extra = torch.zeros(1)

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


def test_parameters_and_statistics_are_averaged_once_and_all_else_is_copied():
    network = Kinds()
    average = Average(network, decay=0.5)
    start = average.module.first.weight.clone()
    with torch.no_grad():
        network.first.weight += 1
        network.norm.running_mean += 1
        network.norm.running_var += 1
    for name in ("codes", "hidden", "count", "wave"):
        setattr(network, name, getattr(network, name) + 1)  # assigned, not changed in place
    network.extra.add_(1)
    average.update(100)
    twin = average.module
    assert twin.first.weight is twin.second.weight
    torch.testing.assert_close(twin.first.weight.data, start + 0.5)
    assert twin.norm.running_mean.tolist() == [0.5, 0.5] and twin.norm.running_var.tolist() == [1.5, 1.5]
    for name in ("codes", "hidden", "count", "wave", "extra"):
        assert torch.equal(getattr(twin, name), getattr(network, name)), name
        assert getattr(twin, name).data_ptr() != getattr(network, name).data_ptr(), name


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_a_network_with_a_computed_weight_can_be_copied(norm):
    layer = hooked(norm, nn.Linear(3, 3))
    inputs = torch.randn(4, 3)
    layer(inputs)
    twin = copied(layer).eval()
    assert torch.equal(twin(inputs), layer.eval()(inputs))
    twin(inputs).sum().backward()
    assert all(parameter.grad is None for parameter in layer.parameters())


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_tensor_that_is_written_is_read_bit_for_bit(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    rows, columns = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")
    wave = torch.complex(torch.ones(2), torch.full((2,), 2.0))
    tensors = {
        "one": whole,
        "tied": whole,
        "overlapping": whole.flatten()[2:7],
        "transposed": whole.t(),
        "rows": rows,
        "columns": columns,
        "expanded": torch.ones(1).expand(5),
        "scalar": torch.tensor(2.5),
        "bfloat16": torch.tensor([1.5, float("nan"), -float("inf")], dtype=torch.bfloat16),
        "complex": wave,
        "conjugated": wave.conj(),
        "negated": wave.conj().imag,
        "bool": torch.tensor([True, False]),
        "integers": torch.tensor([-(2**40), 3]),
        "empty": torch.empty(0, 3),
    }
    write_weights(tmp_path / "network.safetensors", tensors)
    read = read_weights(tmp_path / "network.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype, name
        torch.testing.assert_close(read[name], tensor.resolve_conj(), rtol=0, atol=0, equal_nan=True)


# ── Runs ──────────────────────────────────────────────────────────────────────────────────────────────────


class Stripes(Data):
    """Forty images of random stripes."""

    def spec(self):
        return DataSpec((1, 8, 8))

    def prepare(self):
        pass

    def split(self, name):
        rows = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 1), dtype=np.uint8)
        return Split(rows.repeat(8, 3))


class Plain(Generator):
    """Two dense layers; faults are added to it."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 64)

    def forward(self, latents, labels=None):
        return self.second(self.features(self.first(latents))).tanh().unflatten(1, (1, 8, 8))

    def features(self, hidden):
        return hidden


class Tied(Plain):
    """The same weight in two layers, and a buffer that is a view of another."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.third = nn.Linear(8, 8)
        self.third.weight = self.first.weight
        self.register_buffer("all", torch.randn(16))
        self.register_buffer("some", self.all[:8])

    def features(self, hidden):
        return self.third(hidden + self.some)


class Normed(Plain):
    """Both spectral norms, the old weight norm, and batch norm."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.layers = nn.Sequential(
            spectral_norm(nn.Linear(8, 8)),
            hooked(nn.utils.spectral_norm, nn.Linear(8, 8)),
            hooked(nn.utils.weight_norm, nn.Linear(8, 8)),
            nn.BatchNorm1d(8),
        )

    def features(self, hidden):
        return self.layers(hidden)


class Grid(Plain):
    """Buffers as `meshgrid` and `expand` return them, a mask with -inf, and frozen parameters of other types."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8), indexing="ij")
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns[None, None], persistent=False)
        self.register_buffer("mask", torch.full((8,), -torch.inf).expand(1, 8))
        self.scale = nn.Parameter(torch.tensor(0.5, dtype=torch.bfloat16), requires_grad=False)
        self.order = nn.Parameter(torch.randperm(8), requires_grad=False)

    def forward(self, latents, labels=None):
        return (super().forward(latents) + self.rows + self.columns).mul(self.scale).tanh()

    def features(self, hidden):
        return hidden[:, self.order] + self.mask.exp()


class Volume(Plain):
    """A 3-D convolution, and an attribute that its extra state holds."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.calls = torch.zeros(())
        self.last = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, latents, labels=None):
        if self.training:
            self.calls = self.calls + 1
        return self.last(super().forward(latents)[:, None])[:, 0] / (1 + self.calls / 100)

    def get_extra_state(self):
        return self.calls

    def set_extra_state(self, state):
        self.calls = state


class Modulated(Plain):
    """A 5-D weight, scaled for each sample, as StyleGAN2 has it."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.weight = nn.Parameter(torch.randn(1, 1, 1, 3, 3))
        self.style = nn.Linear(8, 1)

    def forward(self, latents, labels=None):
        images, count = super().forward(latents), len(latents)
        weight = (self.weight * self.style(latents)[:, :, None, None, None]).flatten(0, 1)
        return nn.functional.conv2d(images.transpose(0, 1), weight, padding=1, groups=count).transpose(0, 1).tanh()


class Critic(Discriminator):
    """One dense layer."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))

    def forward(self, images, labels=None):
        return self.layers(images)


def plugin(generator):
    class Plugin:
        @hookimpl
        def ganrun_data(self):
            return {"stripes": Stripes}

        @hookimpl
        def ganrun_generators(self):
            return {"tried": generator}

        @hookimpl
        def ganrun_discriminators(self):
            return {"critic": Critic}

    return Plugin()


def tables(steps=4):
    return {
        "train": {"steps": steps, "batch_size": 4, "device": "cpu"},
        "data": {"use": "stripes"},
        "loss": {"use": "gan", "latent_size": 8},
        "generator": {"use": "tried"},
        "discriminator": {"use": "critic"},
        "ema": {"decay": 0.9},
        "optimizer": {"schedule": "constant"},
        "checkpoints": {"keep": 1},
        "mlflow": False,
        "progress": False,
        "samples": False,
    }


@pytest.mark.parametrize("generator", [Tied, Normed, Grid, Volume, Modulated])
def test_a_network_of_any_tensors_trains_resumes_bit_equal_and_loads(tmp_path, generator):
    whole = train(tables(4), tmp_path / "whole", plugin(generator))
    train(tables(2), tmp_path / "parts", plugin(generator))
    parts = train(tables(4), tmp_path / "parts", plugin(generator), resume=True)
    expected, found = whole.state.weights(), parts.state.weights()
    for network, tensors in expected.items():
        for name, tensor in tensors.items():
            assert torch.equal(found[network][name], tensor), (network, name)
    samples = whole.model.sample(8)
    assert torch.equal(parts.model.sample(8), samples)
    saved = find_saved_model(tmp_path / "parts", registry_with(plugin(generator)))
    assert torch.equal(saved.model("cpu").sample(8), samples)
    (tmp_path / "exported").mkdir()
    saved.save(tmp_path / "exported", {})
    exported = find_saved_model(tmp_path / "exported", registry_with(plugin(generator)))
    assert torch.equal(exported.model("cpu").sample(8), samples)


def test_only_4d_tensors_of_floats_change_their_layout():
    network = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3), nn.Linear(3, 4)])
    network.register_buffer("indices", torch.zeros(2, 3, 4, 5, dtype=torch.int64))
    network.register_buffer("map", torch.zeros(2, 3, 4, 5))
    to_device(network, CPU)
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert network.map.is_contiguous(memory_format=torch.channels_last)
    assert network[1].weight.is_contiguous() and network.indices.is_contiguous()


# ── Refused before a run ──────────────────────────────────────────────────────────────────────────────────


class Faulty(Plain):
    """One fault, added in the constructor, and what it changes in the forward."""

    def features(self, hidden):
        return hidden + self.noise


class HiddenNoise(Faulty):
    """A random tensor that is no buffer, behind a gain that starts at 0."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.gain = nn.Parameter(torch.zeros(()))
        self.fixed = {"noise": torch.randn(8)}

    def features(self, hidden):
        return hidden + self.gain * self.fixed["noise"]


class HiddenBuffer(Faulty):
    """A random buffer that is not saved."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.register_buffer("noise", torch.randn(8), persistent=False)


class HiddenCount(Faulty):
    """A number that training changes."""

    noise = 0

    def features(self, hidden):
        self.noise += self.training
        return hidden + self.noise


class Restless(Plain):
    """Changes in evaluation."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.register_buffer("noise", torch.zeros(8), persistent=False)

    def features(self, hidden):
        return hidden + self.noise.add_(1)


class Listed(Plain):
    """Layers in a list."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.blocks = [nn.ReLU(), {"dense": nn.Linear(8, 8)}]

    def features(self, hidden):
        return self.blocks[1]["dense"](self.blocks[0](hidden))


class ListedParameter(Faulty):
    """A parameter in a list."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.noises = (nn.Parameter(torch.zeros(8)),)

    def features(self, hidden):
        return hidden + self.noises[0]


class Seeded(Plain):
    """Seeds the stream."""

    def __init__(self, settings, spec):
        torch.manual_seed(0)
        super().__init__(settings, spec)


class Expanded(Faulty):
    """One number in eight places."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.noise = nn.Parameter(torch.zeros(1).expand(8))


class Windowed(Faulty):
    """Windows of one tensor, each of which shares half of the next."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.noise = nn.Parameter(torch.zeros(64).as_strided((2, 8), (4, 1)))

    def features(self, hidden):
        return hidden + self.noise.sum(0)


class Shared(Faulty):
    """Two parameters of one memory."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.noise = nn.Parameter(self.first.weight.data[0])


class Half(Faulty):
    """A parameter in bfloat16."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.noise = nn.Parameter(torch.zeros(8, dtype=torch.bfloat16))


class Lazy(Plain):
    """A layer that gets its size from the first input."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.first = nn.LazyLinear(8)


class Extra(Plain):
    """Extra state that is no tensor."""

    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        pass


class Sparse(Plain):
    """A sparse buffer."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.register_buffer("mixing", torch.eye(8).to_sparse())

    def features(self, hidden):
        return torch.sparse.mm(self.mixing, hidden.t()).t()


class Growing(Faulty):
    """A buffer that the first training step makes longer."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.register_buffer("noise", torch.zeros(1))

    def features(self, hidden):
        if self.training:
            self.noise = torch.zeros(8)
        return hidden + self.noise


class Graph(Faulty):
    """A mean that keeps the graph of every step."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.register_buffer("noise", torch.zeros(8))

    def features(self, hidden):
        if self.training:
            self.noise = 0.9 * self.noise + 0.1 * hidden.mean(0)
        return hidden + self.noise


class Forgetful(Plain):
    """Loads something else than it saved."""

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        state_dict = {name: torch.zeros_like(value) for name, value in state_dict.items()}
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.gain = nn.Parameter(torch.ones(8))

    def features(self, hidden):
        return hidden * self.gain


class Locked(Plain):
    """An attribute that cannot be copied."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.source = (number for number in range(3))


FAULTS = {
    HiddenNoise: r"state_dict does not hold fixed\['noise'\]; keep it in a buffer",
    HiddenBuffer: "state_dict does not hold noise; .* without persistent=False",
    HiddenCount: "state_dict does not hold noise; keep it in a buffer",
    Restless: "the same input gives another output at each call",
    Listed: r"torch does not find its blocks\[1\]\['dense'\] \(Linear\)",
    ListedParameter: r"torch does not find its noises\[0\] \(Parameter\)",
    Seeded: "leave out torch.manual_seed",
    Expanded: "several elements of its parameter noise share memory",
    Windowed: "several elements of its parameter noise share memory",
    Shared: "its parameters noise and first.weight are two views of one memory",
    Half: "its parameter noise is bfloat16, and only float32 is trained",
    Lazy: "its parameter first.weight takes its size from the first input",
    Extra: "its state holds _extra_state, which is a dict",
    Sparse: r"its mixing \(float32\) cannot be saved",
    Growing: "(?s)a new build cannot load its state; .*size mismatch for noise",
    Graph: "its buffer noise is computed with gradients",
    Forgetful: "saved and loaded again, gain of its state differ",
    Locked: "copy.deepcopy cannot copy it: TypeError",
}


@pytest.mark.parametrize("generator", FAULTS)
def test_a_state_that_no_run_could_keep_is_refused_at_its_line_and_nothing_is_written(tmp_path, generator):
    with pytest.raises(IncompatibleError, match=FAULTS[generator]) as caught:
        build(tables(), tmp_path / "run", plugin(generator))
    assert caught.value.where == f"{tmp_path}/run.toml:{line_of(tmp_path / 'run.toml', '[generator]')}"
    assert "generator tried" in str(caught.value) or "[generator] tried" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]


def line_of(recipe, header):
    return recipe.read_text(encoding="utf-8").splitlines().index(header) + 1


@pytest.mark.parametrize("generator", [Tied, Normed, Grid, Volume, Modulated])
def test_the_rehearsal_leaves_the_network_and_the_random_stream_alone(generator):
    make = partial(generator, None, None)
    module, latents = to_device(make(), CPU), torch.randn(2, 8)
    before, stream = copied(module), torch.get_rng_state()
    check_state(module, make, lambda network: network(latents), CPU, partial(Average, decay=0.9))
    assert torch.equal(torch.get_rng_state(), stream) and module.training
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before.state_dict()[name]), name


def test_a_network_elsewhere_than_the_run_is_refused():
    module = nn.Linear(2, 2)
    module.register_buffer("table", torch.empty(2, device="meta"))
    with pytest.raises(IncompatibleError, match="its table is on meta, and the run on cpu"):
        check_state(module, lambda: nn.Linear(2, 2), lambda network: network(torch.zeros(2, 2)), CPU)


def test_nothing_is_written_to_try_it(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    before = set(tmp_path.iterdir())
    check_state(nn.Linear(2, 2), lambda: nn.Linear(2, 2), lambda network: network(torch.ones(1, 2)), CPU)
    assert set(tmp_path.iterdir()) == before


def test_the_kit_asks_the_same_questions():
    class Square(HiddenBuffer):
        """For the kit's spec."""

        def __init__(self, settings, spec):
            super().__init__(settings, spec)
            self.first = nn.Linear(spec.inputs[0], 8)
            self.second = nn.Linear(8, 3 * 32 * 32)

        def forward(self, latents, labels=None):
            return self.second(self.features(self.first(latents))).tanh().unflatten(1, (3, 32, 32))

    with pytest.raises(AssertionError, match="state_dict does not hold noise"):
        assert_conforms("generator", Square)
