"""The command line: Hydra composes, the experiment runs; exits 0 done, 2 a user's mistake, 128 + n on signal n."""

from __future__ import annotations

import logging
import os
import sys
from functools import partial

import hydra
from omegaconf import DictConfig

from mobilebert_exp import composition, verbs
from mobilebert_exp.errors import RunStopped, UserError

ENVIRONMENT = {
    "TF_USE_LEGACY_KERAS": "1",  # Orbit and tf-models are written against Keras 2
    "TF_CPP_MIN_LOG_LEVEL": "3",  # what TensorFlow cannot do it raises; the rest is noise on every start
    "HYDRA_FULL_ERROR": "1",  # Hydra hands us its errors instead of printing them
}


def application(mistakes: list[UserError], config: DictConfig) -> UserError | None:
    """One job of Hydra's. A mistake is told here, noted and returned, so that the other jobs of a multirun go on."""
    from mobilebert_exp import experiment  # --help and --cfg job need none of what it loads

    job, uri, workers = composition.job(), os.environ.get("MLFLOW_TRACKING_URI"), os.environ.get("TF_CONFIG")
    here, sweep, words = job.folder, job.sweep_dir, job.overrides
    try:
        with experiment.unbegun_leaves_nothing(here, made=() if sweep else job.made):  # a sweep's table tells of it
            typed = composition.typed(config)
            experiment.run(typed, run_dir=here, overrides=words, sweep_dir=sweep, tracking_uri=uri, tf_config=workers)
    except Exception as problem:
        mistakes.append(composition.explained(problem, words))
        print(f"error: {f'job {job.number}: ' if sweep else ''}{mistakes[-1]}", file=sys.stderr)
        return mistakes[-1]
    return None


def main() -> int:
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    logging.raiseExceptions = False  # a full disk is told once, not in a traceback for each line of the log
    mistakes: list[UserError] = []
    try:
        if sys.argv[1:] and sys.argv[1] in verbs.NAMES:
            return verbs.run(sys.argv[1], sys.argv[2:])
        conf, sys.argv[1:] = composition.prepare(sys.argv[1:], verbs=verbs.NAMES)
        hydra.main(version_base="1.3", config_path=conf, config_name="config")(partial(application, mistakes))()
    except (RunStopped, KeyboardInterrupt) as stop:
        return getattr(stop, "exit_code", 130)
    except Exception as problem:
        print(f"error: {composition.explained(problem, sys.argv[1:])}", file=sys.stderr)
        return 2
    return 2 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
