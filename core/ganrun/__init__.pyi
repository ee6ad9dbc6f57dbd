"""The public names, for type checkers and for `ganrun/__init__.py`, which loads each when it is first used."""

from .base.arithmetic import exact_float32 as exact_float32
from .base.caches import (
    cache_directory as cache_directory,
    cache_file as cache_file,
    cache_path as cache_path,
)
from .base.console import (
    ProgressReporter as ProgressReporter,
    message_console as message_console,
)
from .base.errors import (
    CacheError as CacheError,
    ContractError as ContractError,
    DataError as DataError,
    GanrunError as GanrunError,
    IncompatibleError as IncompatibleError,
    Interrupted as Interrupted,
    NonFiniteError as NonFiniteError,
    PreflightError as PreflightError,
    RequestError as RequestError,
    RunError as RunError,
)
from .base.files import (
    atomic_folder as atomic_folder,
    atomic_path as atomic_path,
    remove_folder as remove_folder,
)
from .base.frames import is_out_of_memory as is_out_of_memory
from .base.jsons import json_text as json_text
from .base.locks import (
    LockedError as LockedError,
    locked as locked,
)
from .base.npz import (
    ArrayHeader as ArrayHeader,
    npz_headers as npz_headers,
    read_npz as read_npz,
)
from .base.places import (
    is_local_path as is_local_path,
    without_local_paths as without_local_paths,
)
from .base.randomness import (
    derived_seed as derived_seed,
    isolated_random as isolated_random,
)
from .base.ranks import (
    gathered_over_ranks as gathered_over_ranks,
    mean_over_ranks as mean_over_ranks,
    ranks as ranks,
)
from .base.reading import (
    is_web_page as is_web_page,
    opened as opened,
    read_bytes as read_bytes,
)
from .base.secrets import (
    bare_address as bare_address,
    without_secrets as without_secrets,
)
from .base.spinner import spinner as spinner
from .base.texts import (
    Markdown as Markdown,
    encodable as encodable,
    markdown_block as markdown_block,
    markdown_code as markdown_code,
    markdown_text as markdown_text,
    one_line as one_line,
    printable as printable,
    shell_quoted as shell_quoted,
    yaml_scalar as yaml_scalar,
)
from .contracts.augmentations import Augmentation as Augmentation
from .contracts.components import Part as Part
from .contracts.data import (
    Data as Data,
    Split as Split,
    to_uint8 as to_uint8,
    to_unit_range as to_unit_range,
    unknown_split as unknown_split,
)
from .contracts.evaluation import (
    Buffer as Buffer,
    Collector as Collector,
    EvaluatedModel as EvaluatedModel,
    Evaluation as Evaluation,
)
from .contracts.extractors import Extractor as Extractor
from .contracts.health import HealthCheck as HealthCheck
from .contracts.losses import (
    Batch as Batch,
    Inputs as Inputs,
    Loss as Loss,
    Nets as Nets,
    Phase as Phase,
    Reading as Reading,
    Terms as Terms,
)
from .contracts.markers import (
    hookimpl as hookimpl,
    observes as observes,
)
from .contracts.memory import Memory as Memory
from .contracts.metrics import (
    FeatureMetric as FeatureMetric,
    Metric as Metric,
)
from .contracts.networks import (
    Discriminator as Discriminator,
    Generator as Generator,
    Network as Network,
)
from .contracts.observers import Observer as Observer
from .contracts.optimizers import (
    Optimizer as Optimizer,
    OptimizerSettings as OptimizerSettings,
    Schedule as Schedule,
)
from .contracts.outside import (
    Address as Address,
    LocalPath as LocalPath,
    Secret as Secret,
    secret_value as secret_value,
)
from .contracts.regularizers import (
    Regularizer as Regularizer,
    RegularizerSettings as RegularizerSettings,
)
from .contracts.scheduled import Scheduled as Scheduled
from .contracts.scores import Score as Score
from .contracts.settings import Settings as Settings
from .contracts.slots import Slot as Slot
from .contracts.specs import (
    DataSpec as DataSpec,
    Factor as Factor,
    ModelSpec as ModelSpec,
    NetworkSpec as NetworkSpec,
    Ports as Ports,
    image_shape as image_shape,
)
from .contracts.trackers import Tracker as Tracker
from .contracts.views import (
    View as View,
    in_float32 as in_float32,
)
from .discovery.registry import (
    Registry as Registry,
    load_registry as load_registry,
    locate as locate,
)
from .inference.given import given_split as given_split
from .inference.labels import label_named as label_named
from .inference.model import Model as Model
from .inference.sources import real_images as real_images
from .rundir.checkpoints import (
    Checkpoint as Checkpoint,
    DamagedCheckpoint as DamagedCheckpoint,
    checkpoint_path as checkpoint_path,
    checkpoints_in as checkpoints_in,
    latest_checkpoint as latest_checkpoint,
    load_checkpoint as load_checkpoint,
    manifest_path as manifest_path,
    save_checkpoint as save_checkpoint,
    score_of as score_of,
    step_of as step_of,
)
from .rundir.directory import RunDirectory as RunDirectory
from .rundir.opening import open_run as open_run
from .rundir.records import (
    RUN_FILES as RUN_FILES,
    Record as Record,
)
from .toolkit.adversarial import (
    AdversarialLoss as AdversarialLoss,
    LogisticLoss as LogisticLoss,
    feature_distance as feature_distance,
    logistic_terms as logistic_terms,
    non_saturating_loss as non_saturating_loss,
)
from .toolkit.classes import (
    ClassInLatents as ClassInLatents,
    labels_of as labels_of,
)
from .toolkit.conditioning import (
    Conditioning as Conditioning,
    ImageConditioning as ImageConditioning,
    LabelledImages as LabelledImages,
    LabelledLatents as LabelledLatents,
    LatentConditioning as LatentConditioning,
)
from .toolkit.equalized import (
    EqualizedConv2d as EqualizedConv2d,
    EqualizedLinear as EqualizedLinear,
)
from .toolkit.image_to_image import ImageToImageLoss as ImageToImageLoss
from .toolkit.interpolation import (
    interpolated_latents as interpolated_latents,
    slerp as slerp,
)
from .toolkit.latents import (
    join_latents as join_latents,
    random_noise as random_noise,
    random_one_hot as random_one_hot,
    split_latents as split_latents,
)
from .toolkit.minibatch import (
    MinibatchComparison as MinibatchComparison,
    MinibatchDeviation as MinibatchDeviation,
    MinibatchDiscrimination as MinibatchDiscrimination,
    minibatch_layers as minibatch_layers,
)
from .toolkit.networks import (
    dcgan_init as dcgan_init,
    float32_tanh as float32_tanh,
    full_precision as full_precision,
    halved_shape as halved_shape,
    pixel_norm as pixel_norm,
)
from .toolkit.penalties import (
    distance_from_one as distance_from_one,
    gradient_norms as gradient_norms,
    interpolates as interpolates,
    squared_gradient_norms as squared_gradient_norms,
)
from .toolkit.pictures import (
    UnreadableError as UnreadableError,
    coloured_picture as coloured_picture,
    is_animated as is_animated,
    is_deep as is_deep,
    is_hidden as is_hidden,
    is_picture as is_picture,
    opaque_picture as opaque_picture,
    open_picture as open_picture,
)
from .toolkit.spectral import (
    SpectralConv2d as SpectralConv2d,
    SpectralEmbedding as SpectralEmbedding,
    SpectralLinear as SpectralLinear,
)
from .trained.loading import (
    SavedModel as SavedModel,
    find_saved_model as find_saved_model,
    load as load,
)
from .training.run import Run as Run
from .training.state import TrainingState as TrainingState
