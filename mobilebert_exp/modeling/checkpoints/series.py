"""The checkpoints of one folder of a run, as they are made: written, committed, the oldest removed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from mobilebert_exp import manifest
from mobilebert_exp.config import ModelConfig, leaves
from mobilebert_exp.errors import OutputError
from mobilebert_exp.modeling.checkpoints import native


class Series:
    """A folder in which the newest checkpoints stay.

    Args:
      folder: need not exist.
      keep: how many stay when `prune` is called.
      model, head, vocabulary: the architecture, what its head answers, and the digest of the words it knows.
    """

    def __init__(self, folder: Path, *, keep: int, model: ModelConfig, head: str, vocabulary: str) -> None:
        self._folder, self._keep = folder, keep
        self._model, self._head, self._vocabulary = leaves(model), head, vocabulary
        self._kept = manifest.committed(folder)  # the newest first

    def newest(self) -> str:
        """The prefix of the newest checkpoint that is whole, to go on from; "" where there is none.

        Those after it, which are damaged, are not counted any more: their steps will be done again.

        Raises:
          CheckpointError: there are some, and none is whole.
        """
        found = native.newest_whole([self._folder])
        if found is None:
            return ""
        prefix = Path(found.prefix)
        self._kept = self._kept[self._kept.index(prefix) :] if prefix in self._kept else [prefix]
        return found.prefix

    def save(self, checkpoint: tf.train.Checkpoint, *, step: int) -> None:
        """Makes the checkpoint of a step. The others stay until `prune`; what an interrupted save left goes.

        Raises:
          OutputError: it cannot be written, or what is read back is not what was written.
        """
        prefix = manifest.prefix_of(self._folder, step=step)
        self._kept = [each for each in self._kept if each != prefix]
        with self._refusals():
            self._folder.mkdir(parents=True, exist_ok=True)
            manifest.remove_others(self._folder, keep=self._kept)
            try:
                native.write_whole(
                    checkpoint,
                    prefix,
                    step=step,
                    model=self._model,
                    head=self._head,
                    vocabulary=self._vocabulary,
                )
            except BaseException:
                with contextlib.suppress(OSError):  # which on a full disk makes room
                    manifest.remove(prefix)
                raise
        self._kept = [prefix, *self._kept]

    def prune(self) -> None:
        """Removes all but the newest; raises OutputError where they cannot be removed."""
        self._kept = self._kept[: self._keep]
        if self._kept:
            with self._refusals():
                manifest.point(self._folder, self._kept)
                manifest.remove_others(self._folder, keep=self._kept)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError as problem:
            reason = native.first_line(problem)
        except OSError as problem:
            reason = problem.strerror or str(problem)
        else:
            return
        raise OutputError(f"cannot save a checkpoint in {self._folder} ({reason}); free space there")
