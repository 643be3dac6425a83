"""Where the publishers keep their files, and which file of ours each becomes.

Sizes and checksums are those that TensorFlow Datasets (tensorflow_datasets/url_checksums/{squad,glue,xnli}.txt) and
Hugging Face Datasets (datasets/{squad_v2,glue,xnli}/dataset_infos.json) record of the same addresses or of copies of
the same files; the two agree wherever both have a file. Those of the vocabularies are the ones that NVIDIA's
DeepLearningExamples check (GooglePretrainedWeightDownloader.py). Nobody publishes any for GLUE's labelled diagnostic.
"""

from __future__ import annotations

from dataclasses import dataclass

from mobilebert_exp.data.xnli import LANGUAGES
from mobilebert_exp.storage.web import File

_SQUAD = "https://rajpurkar.github.io/SQuAD-explorer/dataset"
_GLUE = "https://dl.fbaipublicfiles.com/glue/data"
_MRPC = "https://dl.fbaipublicfiles.com/senteval/senteval_data"
_XNLI = "https://dl.fbaipublicfiles.com/XNLI"
_HUB = "https://huggingface.co/google-bert"


@dataclass(kw_only=True, frozen=True, slots=True)
class Part:
    """A file of our layout: the publisher's file, or what is called `member` in the archive which that is."""

    file: File
    member: str = ""


def _file(address: str, size: int, sha256: str) -> File:
    return File(address=address, size=size, sha256=sha256)


_SQUAD_FILES = {
    f"squad/{name}": Part(file=_file(f"{_SQUAD}/{name}", size, sha256))
    for name, size, sha256 in (
        ("train-v1.1.json", 30_288_272, "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955"),
        ("dev-v1.1.json", 4_854_279, "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9"),
        ("train-v2.0.json", 42_123_633, "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002"),
        ("dev-v2.0.json", 4_370_528, "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8"),
    )
}

_PARTS = ("train", "dev", "test")
_MNLI_PARTS = ("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched")
_GLUE_ARCHIVES: dict[str, tuple[str, int, str, tuple[str, ...]]] = {
    "CoLA": ("CoLA", 376_971, "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff", _PARTS),
    "SST-2": ("SST-2", 7_439_277, "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa", _PARTS),
    "QQP": ("QQP-clean", 41_696_084, "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0", _PARTS),
    "STS-B": ("STS-B", 802_872, "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85", _PARTS),
    "MNLI": ("MNLI", 312_783_507, "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633", _MNLI_PARTS),
    "QNLI": ("QNLIv2", 10_627_589, "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5", _PARTS),
    "RTE": ("RTE", 697_150, "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee", _PARTS),
    "WNLI": ("WNLI", 28_999, "ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46", _PARTS),
}
_GLUE_FILES = {
    f"glue/{folder}/{part}.tsv": Part(file=_file(f"{_GLUE}/{archive}.zip", size, sha256), member=f"{folder}/{part}.tsv")
    for folder, (archive, size, sha256, parts) in _GLUE_ARCHIVES.items()
    for part in parts
} | {
    "glue/diagnostic/diagnostic.tsv": Part(
        file=_file(f"{_GLUE}/AX.tsv", 222_257, "0e13510b1bb14436ff7e2ee82338f0efb0133ecf2e73507a697dc210db3f05fd")
    ),
    # The labelled half of the diagnostic, where the GLUE and SuperGLUE baselines' scripts take it from.
    "glue/diagnostic/diagnostic-full.tsv": Part(
        file=File(address="https://www.dropbox.com/s/ju7d95ifb072q9f/diagnostic-full.tsv?dl=1")
    ),
}

# GLUE has no archive of MRPC: its parts are cut from the corpus by a list of ids (data.mrpc).
MRPC = "glue/MRPC"
MRPC_FILES = {
    "msr_paraphrase_train.txt": _file(
        f"{_MRPC}/msr_paraphrase_train.txt",
        1_047_044,
        "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89",
    ),
    "msr_paraphrase_test.txt": _file(
        f"{_MRPC}/msr_paraphrase_test.txt", 441_275, "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784"
    ),
    "mrpc_dev_ids.tsv": _file(
        f"{_GLUE}/mrpc_dev_ids.tsv", 6_222, "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7"
    ),
}

_XNLI_TEXTS = _file(
    f"{_XNLI}/XNLI-1.0.zip", 17_865_352, "4ba1d5e1afdb7161f0f23c66dc787802ccfa8a25a3ddd3b165a35e50df346ab1"
)
_XNLI_TRANSLATIONS = _file(
    f"{_XNLI}/XNLI-MT-1.0.zip", 466_098_360, "f732517ba2fb1d550e9f3c2aabaef6017c91ee2dcec90e878f138764d224db05"
)
_XNLI_FILES = {
    f"xnli/xnli.{part}.tsv": Part(file=_XNLI_TEXTS, member=f"XNLI-1.0/xnli.{part}.tsv") for part in ("dev", "test")
} | {
    f"xnli/multinli/multinli.train.{language}.tsv": Part(
        file=_XNLI_TRANSLATIONS, member=f"XNLI-MT-1.0/multinli/multinli.train.{language}.tsv"
    )
    for language in LANGUAGES
}

_VOCABULARIES = {
    "vocab/bert_uncased_vocab.txt": Part(
        file=_file(
            f"{_HUB}/bert-base-uncased/resolve/main/vocab.txt",
            231_508,
            "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        )
    ),
    "vocab/bert_multi_cased_vocab.txt": Part(
        file=_file(
            f"{_HUB}/bert-base-multilingual-cased/resolve/main/vocab.txt",
            995_526,
            "fe0fda7c425b48c516fc8f160d594c8022a0808447475c1a7c6d6479763f310c",
        )
    ),
}

FILES: dict[str, Part] = _SQUAD_FILES | _GLUE_FILES | _XNLI_FILES | _VOCABULARIES


def known(address: str) -> File:
    """What is known of an address; of most nothing."""
    files = [part.file for part in FILES.values()] + list(MRPC_FILES.values())
    return next((file for file in files if file.address == address), File(address=address))
