"""ganrun: one TOML recipe is one experiment with a generative image model.

The public names, for authors of plugins. They are loaded when first used, so that importing `ganrun` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganrun.caches import cache_directory as cache_directory
    from ganrun.checkpoints import DamagedCheckpoint as DamagedCheckpoint
    from ganrun.checkpoints import checkpoint_path as checkpoint_path
    from ganrun.checkpoints import checkpoints_in as checkpoints_in
    from ganrun.checkpoints import latest_checkpoint as latest_checkpoint
    from ganrun.checkpoints import load_checkpoint as load_checkpoint
    from ganrun.checkpoints import save_checkpoint as save_checkpoint
    from ganrun.checkpoints import step_of as step_of
    from ganrun.checkups import Checkup as Checkup
    from ganrun.components import Data as Data
    from ganrun.components import Discriminator as Discriminator
    from ganrun.components import Extractor as Extractor
    from ganrun.components import Factor as Factor
    from ganrun.components import FeatureMetric as FeatureMetric
    from ganrun.components import Features as Features
    from ganrun.components import Generator as Generator
    from ganrun.components import Metric as Metric
    from ganrun.components import Observer as Observer
    from ganrun.components import Problem as Problem
    from ganrun.components import Score as Score
    from ganrun.components import Split as Split
    from ganrun.components import no_such_split as no_such_split
    from ganrun.components import to_uint8 as to_uint8
    from ganrun.components import to_unit_range as to_unit_range
    from ganrun.conditioning import Conditioning as Conditioning
    from ganrun.conditioning import LabelledImages as LabelledImages
    from ganrun.conditioning import LabelledLatents as LabelledLatents
    from ganrun.console import Waiting as Waiting
    from ganrun.console import message_console as message_console
    from ganrun.console import spinner as spinner
    from ganrun.directory import RunDirectory as RunDirectory
    from ganrun.directory import open_run as open_run
    from ganrun.errors import ContractError as ContractError
    from ganrun.errors import DataError as DataError
    from ganrun.errors import GanrunError as GanrunError
    from ganrun.errors import Interrupted as Interrupted
    from ganrun.errors import MisfitError as MisfitError
    from ganrun.errors import NonFiniteError as NonFiniteError
    from ganrun.errors import PreflightError as PreflightError
    from ganrun.errors import RequestError as RequestError
    from ganrun.errors import RunError as RunError
    from ganrun.evaluation import Evaluation as Evaluation
    from ganrun.evaluation import Kept as Kept
    from ganrun.files import atomic_folder as atomic_folder
    from ganrun.files import atomic_path as atomic_path
    from ganrun.loading import Trained as Trained
    from ganrun.loading import find_trained as find_trained
    from ganrun.loading import load as load
    from ganrun.losses import Batch as Batch
    from ganrun.losses import Loss as Loss
    from ganrun.losses import Nets as Nets
    from ganrun.losses import Phase as Phase
    from ganrun.losses import Slot as Slot
    from ganrun.losses import Terms as Terms
    from ganrun.markers import hookimpl as hookimpl
    from ganrun.markers import observes as observes
    from ganrun.model import Model as Model
    from ganrun.randomness import derived_seed as derived_seed
    from ganrun.randomness import isolated_random as isolated_random
    from ganrun.registry import load_registry as load_registry
    from ganrun.registry import locate as locate
    from ganrun.run import Run as Run
    from ganrun.settings import Settings as Settings
    from ganrun.state import TrainingState as TrainingState
    from ganrun.trackers import Tracker as Tracker

_HOMES = {
    "caches": "cache_directory",
    "console": "Waiting message_console spinner",
    "checkpoints": "DamagedCheckpoint checkpoint_path checkpoints_in latest_checkpoint load_checkpoint save_checkpoint "
    "step_of",
    "checkups": "Checkup",
    "components": "Data Discriminator Extractor Factor FeatureMetric Features Generator Metric Observer Problem Score "
    "Split no_such_split to_uint8 to_unit_range",
    "conditioning": "Conditioning LabelledImages LabelledLatents",
    "directory": "RunDirectory open_run",
    "errors": "ContractError DataError GanrunError Interrupted MisfitError NonFiniteError PreflightError RequestError "
    "RunError",
    "evaluation": "Evaluation Kept",
    "files": "atomic_folder atomic_path",
    "loading": "Trained find_trained load",
    "losses": "Batch Loss Nets Phase Slot Terms",
    "markers": "hookimpl observes",
    "model": "Model",
    "randomness": "derived_seed isolated_random",
    "registry": "load_registry locate",
    "run": "Run",
    "settings": "Settings",
    "state": "TrainingState",
    "trackers": "Tracker",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ganrun' has no attribute {name!r}")
    return getattr(import_module(f"ganrun.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "testing"]
