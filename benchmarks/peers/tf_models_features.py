"""tf-models' own Python featurisers: squad_lib and classifier_data_lib with their FullTokenizer, writing TFRecords."""

from __future__ import annotations

import csv
import json
import sys
import time
from typing import Any

from absl import logging
from official.nlp.data import classifier_data_lib, squad_lib
from official.nlp.tools import tokenization


def squad(job: dict[str, Any]) -> int:
    """A SQuAD file for training; our file has one answer a question, as the original wants."""
    tokenizer = tokenization.FullTokenizer(job["vocabulary"], do_lower_case=True)
    examples = squad_lib.read_squad_examples(job["file"], True, False)
    writer = squad_lib.FeatureWriter(job["records"], is_training=True)
    squad_lib.convert_examples_to_features(
        examples, tokenizer, job["length"], job["stride"], job["query_length"], True, writer.process_feature
    )
    writer.close()
    return int(writer.num_features)


def texts(job: dict[str, Any]) -> int:
    """Two texts and a label a line."""
    tokenizer = tokenization.FullTokenizer(job["vocabulary"], do_lower_case=True)
    with open(job["file"], encoding="utf-8", newline="\n") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    examples = [
        classifier_data_lib.InputExample(guid=str(number), text_a=text_a, text_b=text_b or None, label=label)
        for number, (text_a, text_b, label) in enumerate(rows)
    ]
    classifier_data_lib.file_based_convert_examples_to_features(
        examples, ["0", "1"], job["length"], tokenizer, job["records"]
    )
    return len(examples)


def main() -> None:
    logging.set_verbosity(logging.ERROR)
    job = json.loads(sys.argv[1])
    started = time.perf_counter()
    made = {"squad": squad, "texts": texts}[job["kind"]](job)
    print(json.dumps({"seconds": time.perf_counter() - started, "records": made}))


if __name__ == "__main__":
    main()
