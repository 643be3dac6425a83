"""Our pre-training data of some texts, in a folder of shards."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

from mobilebert_exp.data.pretraining import feature_files, inputs
from mobilebert_exp.data.pretraining.build import Text
from mobilebert_exp.data.pretraining.settings import BadBytes, Settings
from mobilebert_exp.data.tokenizer import Tokenizer


def main() -> None:
    job = json.loads(sys.argv[1])
    settings = Settings(dupe_factor=job["dupe_factor"])
    started = time.perf_counter()
    corpus = inputs.corpus([Path(file) for file in job["files"]], bad_bytes=BadBytes.refuse)
    tokenizer = Tokenizer.from_file(job["vocabulary"], lower_case=True)
    found = feature_files.made_in(
        Path(job["place"]) / "data", Text(corpus=corpus, tokenizer=tokenizer, settings=settings)
    )
    seconds = time.perf_counter() - started
    own, workers = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    peak_mib = (own + workers * len(os.sched_getaffinity(0))) / 1024  # of the children it is the largest one's
    assert found.counts is not None
    answer = {"seconds": seconds, "records": found.records, "sentences": found.counts.sentences, "peak_mib": peak_mib}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
