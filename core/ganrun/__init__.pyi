"""The public names, for type checkers and for `ganrun/__init__.py`, which loads each when it is first used."""

from .base.caches import cache_directory as cache_directory
from .base.console import (
    ProgressReporter as ProgressReporter,
)
from .base.console import (
    message_console as message_console,
)
from .base.console import (
    spinner as spinner,
)
from .base.errors import (
    ContractError as ContractError,
)
from .base.errors import (
    DataError as DataError,
)
from .base.errors import (
    GanrunError as GanrunError,
)
from .base.errors import (
    IncompatibleError as IncompatibleError,
)
from .base.errors import (
    Interrupted as Interrupted,
)
from .base.errors import (
    NonFiniteError as NonFiniteError,
)
from .base.errors import (
    PreflightError as PreflightError,
)
from .base.errors import (
    RequestError as RequestError,
)
from .base.errors import (
    RunError as RunError,
)
from .base.files import (
    atomic_folder as atomic_folder,
)
from .base.files import (
    atomic_path as atomic_path,
)
from .base.randomness import (
    derived_seed as derived_seed,
)
from .base.randomness import (
    isolated_random as isolated_random,
)
from .contracts.data import (
    Data as Data,
)
from .contracts.data import (
    Split as Split,
)
from .contracts.data import (
    to_uint8 as to_uint8,
)
from .contracts.data import (
    to_unit_range as to_unit_range,
)
from .contracts.data import (
    unknown_split as unknown_split,
)
from .contracts.evaluation import (
    Buffer as Buffer,
)
from .contracts.evaluation import (
    Collector as Collector,
)
from .contracts.evaluation import (
    Evaluation as Evaluation,
)
from .contracts.extractors import Extractor as Extractor
from .contracts.health import HealthCheck as HealthCheck
from .contracts.losses import (
    Batch as Batch,
)
from .contracts.losses import (
    Loss as Loss,
)
from .contracts.losses import (
    Nets as Nets,
)
from .contracts.losses import (
    Phase as Phase,
)
from .contracts.losses import (
    Slot as Slot,
)
from .contracts.losses import (
    Terms as Terms,
)
from .contracts.markers import (
    hookimpl as hookimpl,
)
from .contracts.markers import (
    observes as observes,
)
from .contracts.metrics import (
    FeatureMetric as FeatureMetric,
)
from .contracts.metrics import (
    Features as Features,
)
from .contracts.metrics import (
    Metric as Metric,
)
from .contracts.metrics import (
    Score as Score,
)
from .contracts.networks import (
    Discriminator as Discriminator,
)
from .contracts.networks import (
    Generator as Generator,
)
from .contracts.observers import Observer as Observer
from .contracts.settings import Settings as Settings
from .contracts.specs import (
    DataSpec as DataSpec,
)
from .contracts.specs import (
    Factor as Factor,
)
from .contracts.specs import (
    ModelSpec as ModelSpec,
)
from .contracts.trackers import Tracker as Tracker
from .discovery.registry import (
    load_registry as load_registry,
)
from .discovery.registry import (
    locate as locate,
)
from .inference.model import Model as Model
from .inference.sources import real_images as real_images
from .rundir.checkpoints import (
    DamagedCheckpoint as DamagedCheckpoint,
)
from .rundir.checkpoints import (
    checkpoint_path as checkpoint_path,
)
from .rundir.checkpoints import (
    checkpoints_in as checkpoints_in,
)
from .rundir.checkpoints import (
    latest_checkpoint as latest_checkpoint,
)
from .rundir.checkpoints import (
    load_checkpoint as load_checkpoint,
)
from .rundir.checkpoints import (
    save_checkpoint as save_checkpoint,
)
from .rundir.checkpoints import (
    step_of as step_of,
)
from .rundir.directory import (
    RunDirectory as RunDirectory,
)
from .rundir.directory import (
    open_run as open_run,
)
from .toolkit.conditioning import (
    Conditioning as Conditioning,
)
from .toolkit.conditioning import (
    LabelledImages as LabelledImages,
)
from .toolkit.conditioning import (
    LabelledLatents as LabelledLatents,
)
from .trained.loading import (
    SavedModel as SavedModel,
)
from .trained.loading import (
    find_saved_model as find_saved_model,
)
from .trained.loading import (
    load as load,
)
from .training.run import Run as Run
from .training.state import TrainingState as TrainingState
