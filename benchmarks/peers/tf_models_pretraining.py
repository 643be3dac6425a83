"""tf-models' own create_pretraining_data of some texts, in one file."""

from __future__ import annotations

import json
import random
import sys
import time

from absl import logging
from official.nlp.data import create_pretraining_data as script
from official.nlp.tools import tokenization

LENGTH, PREDICTIONS, SEED = 128, 20, 12345  # its defaults


def main() -> None:
    logging.set_verbosity(logging.ERROR)
    job = json.loads(sys.argv[1])
    started = time.perf_counter()
    tokenizer = tokenization.FullTokenizer(job["vocabulary"], do_lower_case=True)
    instances = script.create_training_instances(
        job["files"], tokenizer, script.get_processor_text_fn(False, True), LENGTH, job["dupe_factor"], 0.1, 0.15,
        PREDICTIONS, random.Random(SEED),
    )  # fmt: skip
    script.write_instance_to_example_files(
        instances, tokenizer, LENGTH, PREDICTIONS, [f"{job['place']}/data.tfrecord"], False, False
    )
    print(json.dumps({"seconds": time.perf_counter() - started, "records": len(instances)}))


if __name__ == "__main__":
    main()
