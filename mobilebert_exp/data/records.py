"""Feature records: TFRecord files of `tf.train.Example`, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mobilebert_exp.errors import OutputError

if TYPE_CHECKING:
    import tensorflow as tf

Row = Mapping[str, Sequence[int] | Sequence[float]]


def write(path: str | Path, rows: Iterable[Row]) -> int:
    """Writes one record a row, integers as int64 lists and floats as float lists; returns how many.

    Raises:
      OutputError: the place cannot be written; whatever stood at `path` before still does.
    """
    import tensorflow as tf

    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for row in rows:
                writer.write(_example(row).SerializeToString())
                count += 1
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", "")
        raise OutputError(f"{path} cannot be written ({reason}); make room, or choose another place") from None
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _example(row: Row) -> tf.train.Example:
    import tensorflow as tf

    example = tf.train.Example()
    for name, values in row.items():
        feature = example.features.feature[name]
        if any(isinstance(value, float) for value in values):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return example
