"""One conversion by the verb, with what it takes; or the invention of the checkpoint that is converted."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from mobilebert_exp import compose, convert
from mobilebert_exp.config import leaves
from mobilebert_exp.modeling.checkpoints import formats, native_weights
from mobilebert_exp.modeling.checkpoints.weights import Weights
from mobilebert_exp.modeling.variables import encoder_variables, pretraining_variables

LIBRARIES = {  # what a format brings with it
    **dict.fromkeys(("native", "tf1", "tf_models"), "tensorflow"),
    "huggingface": "safetensors.numpy",
}


def invent(folder: Path) -> None:
    """A checkpoint of ours, of random numbers."""
    model = compose(["model=opt"]).model
    rng = np.random.default_rng(0)
    specs = [*encoder_variables(model), *pretraining_variables(model)]
    values = {spec.name: rng.standard_normal(spec.shape, np.float32) * np.float32(0.02) for spec in specs}
    native_weights.write(Weights(values=values, model=leaves(model)), folder)


def measured(job: dict[str, str]) -> dict[str, float]:
    """Seconds of the conversion, peak memory of the process and above the imports, size of the source; MiB."""
    origin = formats.recognised(job["source"])
    for name in (origin, job["to"]):
        formats.named(name)
        importlib.import_module(LIBRARIES[name])
    imported, started = _peak_mib(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        convert.main([job["source"], job["target"], "--to", job["to"], "--model", "opt"])
    seconds, peak = time.perf_counter() - started, _peak_mib()
    sizes = [path.stat().st_size for path in Path(job["source"]).rglob("*") if path.is_file()]
    return {"seconds": seconds, "peak_mib": peak, "above_mib": peak - imported, "file_mib": sum(sizes) / 2**20}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    job = json.loads(sys.argv[1])
    if "invent" in job:
        invent(Path(job["invent"]))
        print(json.dumps({}))
    else:
        print(json.dumps(measured(job)))


if __name__ == "__main__":
    main()
