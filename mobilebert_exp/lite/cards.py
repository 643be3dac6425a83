"""The card of an exported model, wherever its format keeps it: at the end of a `.tflite`, beside a SavedModel."""

from __future__ import annotations

from pathlib import Path

from mobilebert_exp import location
from mobilebert_exp.errors import ExportError
from mobilebert_exp.lite import metadata
from mobilebert_exp.lite.metadata import Card
from mobilebert_exp.lite.model_file import SUFFIX

# In `Card.source`: what the head answers, as `Task.head`; what the tracker calls the run that has the weights; sha256
# of the checkpoint.
HEAD, SOURCE_RUN, CHECKPOINT = "head", "source_run_id", "checkpoint_sha256"
BESIDE = "assets.extra/mobilebert_exp.zip"  # in a SavedModel: the files that a `.tflite` has at its end

SAVED_MODEL_FILE = "saved_model.pb"


def models_at(path: Path) -> list[Path]:
    """What lies at a place: a file, a SavedModel's folder, or those in a folder, which may be that of their run.

    Raises:
      ExportError: nothing of that kind is there.
    """
    if path.is_dir() and (path / location.EXPORTS).is_dir():
        path = path / location.EXPORTS
    if path.is_file() or (path / SAVED_MODEL_FILE).is_file():
        return [path]
    inside = sorted(path.iterdir()) if path.is_dir() else []
    found = [each for each in inside if each.suffix == SUFFIX or (each / SAVED_MODEL_FILE).is_file()]
    if not found:
        raise ExportError(
            f"export.path={path} has no exported model; name a .tflite, a SavedModel's folder or a folder of them, "
            f"such as {location.EXPORTS} in that of a run of mode=export"
        )
    return found


def card_of(path: Path) -> Card:
    """The card of a `.tflite` or of a SavedModel's folder.

    Raises:
      ExportError: it is not there, torn, or was not exported here.
    """
    if path.is_dir() and not (path / BESIDE).is_file():
        raise ExportError(f"{path} is no SavedModel of mode=export, {_inside(path)}")
    return metadata.read(path / BESIDE if path.is_dir() else path)


def _inside(folder: Path) -> str:
    """What a folder is where it is no model with a card, and the remedy."""
    try:
        first, *others = models_at(folder)
    except ExportError:
        first, others = folder, []
    if first == folder:
        return f"it lacks {BESIDE}; name one, or a .tflite"
    more = f" (or {', '.join(each.name for each in others)})" if others else ""
    return f"but a folder of models; name one: {first}{more}"


def put_beside(card: Card, folder: Path) -> None:
    """Adds its card to a SavedModel's folder; loading it does not read that."""
    (folder / BESIDE).write_bytes(metadata.with_files(b"", metadata.files(card)))
