"""The command line. Exit codes: 0 done, 2 a mistake of the user's, 128 + n stopped by signal n."""

from __future__ import annotations

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mobilebert_exp import composition, experiment
from mobilebert_exp.errors import RunStopped

STARTER = "+preset=starter"  # what a bare command runs
ENVIRONMENT = {
    "TF_USE_LEGACY_KERAS": "1",  # Orbit and tf-models are written against Keras 2
    "TF_CPP_MIN_LOG_LEVEL": "3",  # what TensorFlow cannot do it raises; the rest is noise on every start
    "HYDRA_FULL_ERROR": "1",  # Hydra hands us its errors instead of printing them
}


def application(config: DictConfig) -> None:
    """One job of Hydra's: a run on its own, or one of a multirun."""
    job = HydraConfig.get()
    is_sweep = job.mode is not None and job.mode.name == "MULTIRUN"
    experiment.run(
        composition.typed(config),
        run_dir=job.runtime.output_dir,
        overrides=list(job.overrides.task),
        sweep_dir=job.sweep.dir if is_sweep else None,
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI"),
    )


def main() -> int:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if len(sys.argv) == 1:
        sys.argv.append(STARTER)
        print(f"no arguments: running the starter experiment, mobilebert_exp {STARTER}", file=sys.stderr)
    try:
        composition.register()
        hydra.main(version_base="1.3", config_path=str(composition.shipped("conf")), config_name="config")(
            application
        )()
    except RunStopped as stop:
        return stop.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as problem:
        print(f"error: {composition.explained(problem, sys.argv[1:])}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
