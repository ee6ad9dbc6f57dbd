"""A run's generator as an MLflow model."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

import ganrun
from ganrun_mlflow import store

NAME = "generator"
EXAMPLES = 2
"""Latents in the input example; with only one, torch.export would treat the batch size as a constant."""


class Decoder(nn.Module):
    """Maps latents to samples, with the weights that the scores are computed with."""

    def __init__(self, model: ganrun.Model) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(model.networks)
        self._loss = model.loss
        self._sampling = model.sampling
        self._nets = ganrun.Nets({slot: ganrun.View(network) for slot, network in model.networks.items()})

    def forward(self, latents: Tensor) -> Tensor:
        """Samples `(batch, *sample_shape)` in [-1, 1] from latents `(batch, latent_size)`."""
        return self._loss.generate(self._nets, latents, self._sampling)


def log_generator(uri: str, run_id: str, directory: Path) -> None:
    """Log the generator of a run's last checkpoint as an exported program, which loads without unpickling.

    Ends the MLflow run, as `mlflow.start_run` does.
    """
    import mlflow
    from mlflow.models import infer_signature

    model = ganrun.load(directory, "cpu")
    decoder = Decoder(model).eval()
    latents = model.unfilled_latents(EXAMPLES)
    with torch.no_grad():
        signature = infer_signature(latents.numpy(), decoder(latents).numpy())
    before = os.environ.get(store.URI_VARIABLE)  # MLflow sets it too
    mlflow.set_tracking_uri(uri)
    try:
        with mlflow.start_run(run_id=run_id):
            mlflow.pytorch.log_model(
                decoder,
                name=NAME,
                signature=signature,
                input_example=latents.numpy(),
                pip_requirements=[f"{package}=={version(package)}" for package in ("torch", "mlflow")],
                serialization_format="pt2",
            )
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type, unused-ignore]
