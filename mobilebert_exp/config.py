"""The schema of an experiment: typed, checked once, in `__post_init__`; nothing downstream checks again.

Architecture fields have no defaults: each file of `conf/model` states them all, so that no preset can silently
inherit another's. Everything else has its default here. Schemas are not frozen, because Hydra must override them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace

from mobilebert_exp.architecture import MISSING as MISSING
from mobilebert_exp.architecture import Activation as Activation
from mobilebert_exp.architecture import FakeQuantization as FakeQuantization
from mobilebert_exp.architecture import Initialization as Initialization
from mobilebert_exp.architecture import LayerLoop as LayerLoop
from mobilebert_exp.architecture import ModelConfig as ModelConfig
from mobilebert_exp.architecture import Normalization as Normalization
from mobilebert_exp.checks import at_least, folder, in_bucket, integers, optional_place, positive, require
from mobilebert_exp.deployment import CALIBRATED, ExportFormat
from mobilebert_exp.deployment import BenchmarkConfig as BenchmarkConfig
from mobilebert_exp.deployment import ExportConfig as ExportConfig
from mobilebert_exp.deployment import QuantizationConfig as QuantizationConfig
from mobilebert_exp.location import Logged


class Mode(enum.Enum):
    """What to do with the experiment."""

    train = "train"
    evaluate = "evaluate"
    predict = "predict"
    plan = "plan"
    prepare = "prepare"
    export = "export"
    benchmark = "benchmark"


class DType(enum.Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Device(enum.Enum):
    cpu = "cpu"
    gpu = "gpu"
    tpu = "tpu"


class Distribution(enum.Enum):
    one_device = "one_device"
    mirrored = "mirrored"
    multi_worker = "multi_worker"
    tpu = "tpu"


class TrackerKind(enum.Enum):
    mlflow = "mlflow"
    none = "none"


class OptimizerKind(enum.Enum):
    adamw = "adamw"
    lamb = "lamb"


class Resume(enum.Enum):
    auto = "auto"
    never = "never"


@dataclass(kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW or LAMB as the original: no bias correction, decay off on norms and biases, one global clip.

    The learning rate rises linearly over the warm-up and then falls polynomially to `end_learning_rate_ratio` of
    its peak. `warmup_steps` wins over `warmup_proportion`.
    """

    name: OptimizerKind = OptimizerKind.adamw
    learning_rate: float = 5e-5
    end_learning_rate_ratio: float = 1e-4
    decay_power: float = 1.0
    warmup_proportion: float = 0.1
    warmup_steps: int | None = None
    weight_decay: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-6
    bias_correction: bool = False
    gradient_clip_norm: float = 1.0

    def __post_init__(self) -> None:
        section = "task.optimizer"
        positive(section, learning_rate=self.learning_rate, epsilon=self.epsilon)
        at_least(
            section, 0, warmup_steps=self.warmup_steps, weight_decay=self.weight_decay, decay_power=self.decay_power
        )
        for name, whole in (("warmup_proportion", "all steps"), ("end_learning_rate_ratio", "the peak rate")):
            share = getattr(self, name)
            require(0 <= share <= 1, f"{section}.{name}={share} is not within [0, 1]; give it as a share of {whole}")
        for name in ("beta_1", "beta_2"):
            beta = getattr(self, name)
            require(0 <= beta < 1, f"{section}.{name}={beta} is not within [0, 1); the usual values are 0.9 and 0.999")
        require(
            self.gradient_clip_norm > 0,
            f"{section}.gradient_clip_norm={self.gradient_clip_norm} is not positive; inf clips nothing",
        )


@dataclass(kw_only=True, slots=True)
class TaskConfig:
    """What every task has; each task module extends it with its own fields.

    Attributes:
      kind: the task's name in the registry, i.e. its module under `mobilebert_exp/tasks`.
      name: what the experiment is called in the tracker.
      global_batch_size: examples a training step sees, over all replicas and accumulation together.
      num_train_epochs: passes over the training examples; `trainer.max_steps` caps the steps that follow from it.
      main_metric: the metric that picks the best checkpoint and stands in a sweep's table; larger is better.
    """

    kind: str = MISSING
    name: str = MISSING
    max_seq_length: int = 128
    global_batch_size: int = 32
    eval_batch_size: int = 32
    num_train_epochs: float = 3.0
    main_metric: str = MISSING
    vocab_file: str | None = None
    lower_case: bool = True
    use_summary: bool = False  # whether figures become TensorBoard events too
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        at_least("task", 1, **integers(self, of=TaskConfig))
        positive("task", num_train_epochs=self.num_train_epochs)
        self.vocab_file = optional_place("task.vocab_file", self.vocab_file)

    def train_batches(self) -> dict[str, int]:
        """Global batches of training by their keys; a task with phases of its own may have several."""
        return {"global_batch_size": self.global_batch_size}


@dataclass(kw_only=True, slots=True)
class HardwareConfig:
    """Where the experiment runs.

    Attributes:
      num_replicas: devices over which the global batch is split. On CPU they are logical devices; on GPU `null`
        takes all that are visible; on TPU it states the cores expected.
      steps_per_loop: training steps run on the device between two looks from the host; results do not depend on it.
      threads: intra-op threads on CPU; null lets TensorFlow choose.
      feature_workers: processes that make features; null takes one for each core this process may use, at most 16.
      xla: whether the training step is compiled by XLA (measured slower on CPU, needed on TPU).
    """

    name: str = MISSING
    device: Device = MISSING
    distribution: Distribution = MISSING
    num_replicas: int | None = 1
    dtype: DType = DType.float32
    xla: bool = False
    steps_per_loop: int = 10
    threads: int | None = None
    feature_workers: int | None = None
    tpu_name: str | None = None
    tpu_zone: str | None = None
    gcp_project: str | None = None

    def __post_init__(self) -> None:
        require(
            self.dtype is not DType.float16,
            "hardware.dtype=float16 is refused: NoNorm activations exceed its range and become NaN; "
            "use float32 or bfloat16",
        )
        at_least("hardware", 1, **integers(self))
        is_tpu = self.device is Device.tpu
        require(
            is_tpu == (self.distribution is Distribution.tpu),
            f"hardware.distribution={self.distribution.name} does not fit hardware.device={self.device.name}; "
            "tpu goes with tpu, and only with it",
        )
        require(
            self.distribution is not Distribution.one_device or self.num_replicas == 1,
            f"hardware.num_replicas={'null' if self.num_replicas is None else self.num_replicas} does not fit "
            "hardware.distribution=one_device; set it to 1, or the distribution to mirrored",
        )


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """How the training loop runs.

    Attributes:
      max_steps: cap on the optimizer steps; null takes what the task's epochs give.
      eval_every_steps: evaluate each so many steps; null only at the end.
      checkpoint_every_steps: save each so many steps; null only at the end.
      keep_checkpoints: how many of the newest checkpoints stay, beside the best.
      limit_eval: evaluate only the first so many examples.
      overfit_batches: train on the first so many batches again and again, unshuffled, to see the loss reach zero.
      gradient_accumulation_steps: micro-batches a step is cut into, to fit memory; results stay the same.
    """

    max_steps: int | None = None
    eval_every_steps: int | None = None
    checkpoint_every_steps: int | None = 1000
    keep_checkpoints: int = 2
    limit_eval: int | None = None
    overfit_batches: int | None = None
    gradient_accumulation_steps: int = 1

    def __post_init__(self) -> None:
        at_least("trainer", 1, **integers(self))


@dataclass(kw_only=True, slots=True)
class TrackingConfig:
    """Where runs are recorded.

    Attributes:
      uri: an MLflow tracking URI; null takes MLFLOW_TRACKING_URI, else the SQLite store `<output_dir>/mlflow.db`.
      experiment: the MLflow experiment; null takes the task's name.
      run_name: null takes `<task>-<model>-seed<seed>`, after `<mode>-` where the mode is not train.
      log_checkpoints: which checkpoint of a finished run is logged, for `init.checkpoint=mlflow:RUN_ID` elsewhere.
    """

    kind: TrackerKind = TrackerKind.mlflow
    uri: str | None = None
    experiment: str | None = None
    run_name: str | None = None
    log_checkpoints: Logged = Logged.none
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class InitConfig:
    """The starting weights: a run, or a checkpoint of any format; unless `strict`, training starts with what fits."""

    checkpoint: str | None = None
    strict: bool = True

    def __post_init__(self) -> None:
        self.checkpoint = optional_place("init.checkpoint", self.checkpoint)


@dataclass(kw_only=True, slots=True)
class ExperimentConfig:
    """One experiment, whole.

    Attributes:
      data_root: a folder, `gs://…`, `https://…`, or `publishers` (`data.sources`).
      shared_cache: `gs://…` where features are looked for, and where `mode=prepare` puts them (`data.shared`).
      upload_to: `gs://…` that gets a copy of the run's folder at each checkpoint (`mirror`).
    """

    mode: Mode = Mode.train
    seed: int = 0
    data_root: str | None = None
    output_dir: str = "outputs"
    cache_dir: str | None = None
    shared_cache: str | None = None
    upload_to: str | None = None
    resume: Resume = Resume.auto
    model: ModelConfig = MISSING
    task: TaskConfig = MISSING
    hardware: HardwareConfig = MISSING
    tracking: TrackingConfig = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    init: InitConfig = field(default_factory=InitConfig)
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, f"seed={self.seed} is not within [0, 2147483647]; choose another")
        self.data_root = optional_place("data_root", self.data_root)
        self.cache_dir = None if self.cache_dir is None else folder("cache_dir", self.cache_dir, instead="shared_cache")
        self.output_dir = folder("output_dir", self.output_dir, instead="upload_to")
        in_bucket(shared_cache=self.shared_cache, upload_to=self.upload_to)
        positions = self.model.max_positions
        require(
            self.export.length is None or self.export.length <= positions,
            f"export.length={self.export.length} exceeds the model's {positions} positions (model.max_positions); "
            "lower it",
        )
        if self.mode is Mode.export and self.export.length is not None:  # what is exported is of features this long
            self.task = replace(self.task, max_seq_length=self.export.length)
        length = self.task.max_seq_length
        require(
            length <= positions,
            f"task.max_seq_length={length} exceeds the model's {positions} positions (model.max_positions); lower it",
        )
        self.check_batches(num_replicas=self.hardware.num_replicas or 1)
        steps, warmup = self.trainer.max_steps, self.task.optimizer.warmup_steps
        require(
            steps is None or warmup is None or warmup <= steps,
            f"task.optimizer.warmup_steps={warmup} exceeds trainer.max_steps={steps}; lower it",
        )
        self._check_model()

    def _check_model(self) -> None:
        """Raises ConfigError where a mode needs a model that is there, and none is named."""
        wanted = "init.checkpoint=RUN_DIR, the folder of a finished training run"
        is_named = self.init.checkpoint is not None
        if self.mode in (Mode.evaluate, Mode.benchmark):
            wanted, is_named = f"{wanted}, or export.path=FILE, an exported file", is_named or bool(self.export.path)
        others = (Mode.train, Mode.plan, Mode.prepare)
        require(self.mode in others or is_named, f"mode={self.mode.name} needs {wanted}")
        reads_file = self.mode in (Mode.evaluate, Mode.benchmark, Mode.plan)
        instead = "leave it out" if self.mode is Mode.prepare else f"mode={self.mode.name} takes init.checkpoint"
        require(
            reads_file or self.export.path is None, f"export.path is for mode=evaluate and mode=benchmark; {instead}"
        )

    @property
    def is_calibrated(self) -> bool:
        """Whether an export reads training features, for ranges that quantisation-aware training would have learnt."""
        is_quantized = self.model.fake_quantization is not FakeQuantization.none
        is_learnt = is_quantized and self.export.format is ExportFormat.tflite_int8  # or the checkpoint is refused
        return self.mode is Mode.export and self.export.format in CALIBRATED and not is_learnt

    def check_batches(self, *, num_replicas: int) -> None:
        """Raises ConfigError where a replica's or micro-batch's share is not whole; again when devices are found."""
        parts = num_replicas * self.trainer.gradient_accumulation_steps
        accumulated = "" if parts == num_replicas else " x trainer.gradient_accumulation_steps"
        trained = [(name, size, parts, f"replicas{accumulated}") for name, size in self.task.train_batches().items()]
        evaluated = ("eval_batch_size", self.task.eval_batch_size, num_replicas, "replicas")
        for name, size, count, origin in (*trained, evaluated):
            require(
                size % count == 0,
                f"task.{name}={size} is not divisible by {count} ({origin}); set it to {-(-size // count) * count}",
            )


def leaves(config: object, *, prefix: str = "") -> dict[str, object]:
    """Every leaf of a typed config as `{"task.optimizer.learning_rate": 5e-05, …}`; enums by name."""
    found: dict[str, object] = {}
    if is_dataclass(config) and not isinstance(config, type):
        items = [(f.name, getattr(config, f.name)) for f in fields(config)]
    elif isinstance(config, Mapping) and config:
        items = [(str(key), value) for key, value in config.items()]
    else:
        return {prefix: config.name if isinstance(config, enum.Enum) else config}
    for name, value in items:
        found.update(leaves(value, prefix=f"{prefix}.{name}" if prefix else name))
    return found
