"""Sends the artifacts of a finished run: last pictures, samples to compare, checkpoint and model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ganrun_mlflow.mlflow_run import MlflowRun
from ganrun_mlflow.pictures import COMPARISON, log_picture, step_pictures
from ganrun_mlflow.uploads import Uploads, check_inside

TABLE, TABLE_IMAGES = f"{COMPARISON}/samples.json", f"table_images/{COMPARISON}"
"""Where MLflow finds the table of samples, and the pictures in it."""


class FinalArtifacts:
    """Sends the artifacts of a run that has ended.

    Args:
        run: The MLflow run.
        uploads: Decides which files to send.
    """

    def __init__(self, run: MlflowRun, uploads: Uploads) -> None:
        self._run = run
        self._uploads = uploads

    def send_pictures(self) -> None:
        """Send the last pictures and the samples to compare, if they are new or changed."""
        self._send_last_pictures()
        self._send_comparison()

    def send_weights(self) -> None:
        """Send the checkpoint and the model if they are new or changed, and the settings ask for them."""
        state = self._run.state
        if not (state.log_checkpoints or state.log_model):
            return
        from ganrun import checkpoints_in  # imports torch

        for checkpoint in checkpoints_in(self._run.directory.path)[-1:]:
            if state.log_checkpoints:
                self._send_checkpoint(checkpoint)
            if state.log_model:
                self._send_model(checkpoint)

    def _send_last_pictures(self) -> None:
        """Send the last picture of each series again, as step 0: MLflow's sliders start there, at noise."""
        for folder in self._run.directory.path.iterdir():
            pictures = step_pictures(folder)
            if len(pictures) > 1:
                key, last = f"eval/last_{folder.name}", pictures[-1]
                self._uploads.send_once(key, [last], partial(log_picture, self._run, last, key, 0))

    def _send_comparison(self) -> None:
        files = sorted((self._run.directory / COMPARISON).glob("*.png"))
        if files:
            self._uploads.send_once(COMPARISON, files, partial(self._log_table, files))

    def _log_table(self, files: Sequence[Path]) -> None:
        """Log a table with two columns, which MLflow shows as a grid of samples and runs."""
        # MLflow's own log_table would append to the table of a run that is resumed.
        run = self._run
        for file in files:
            run.client.log_artifact(run.id, str(file), TABLE_IMAGES)
        places = {file.stem: f"{TABLE_IMAGES}/{file.name}" for file in files}
        rows = [
            [name, {"type": "image", "filepath": place, "compressed_filepath": place}] for name, place in places.items()
        ]
        run.client.log_dict(run.id, {"columns": ["sample", "image"], "data": rows}, TABLE)
        run.client.set_tag(run.id, "mlflow.loggedArtifacts", json.dumps([{"path": TABLE, "type": "table"}]))

    def _send_checkpoint(self, checkpoint: Path) -> None:
        from ganrun import manifest_path

        place = f"checkpoints/{checkpoint.name}"
        self._uploads.send_once(place, [manifest_path(checkpoint)], partial(self._log_checkpoint, checkpoint, place))

    def _log_checkpoint(self, checkpoint: Path, place: str) -> None:
        check_inside(self._run.directory.path, checkpoint.rglob("*"))
        self._run.client.log_artifacts(self._run.id, str(checkpoint), place)

    def _send_model(self, checkpoint: Path) -> None:
        from ganrun import manifest_path

        self._uploads.send_once("model", [manifest_path(checkpoint)], self._log_model)

    def _log_model(self) -> None:
        from ganrun_mlflow.models import log_generator

        self._run.state.progress.status = ""  # log_generator ends the MLflow run, with the current time as its end
        log_generator(self._run.uri, self._run.id, self._run.directory.path)
