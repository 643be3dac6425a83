"""Laws of the starter data: same in every process, disjoint by split, every answer where it says, kinds as graded."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from mobilebert_exp.data import starter, vocabulary
from mobilebert_exp.data.starter import world
from mobilebert_exp.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parents[1]
Paragraph = dict[str, Any]


def _paragraphs(data: dict[str, Any]) -> Iterator[Paragraph]:
    for article in data["data"]:
        yield from article["paragraphs"]


def _questions(data: dict[str, Any]) -> Iterator[tuple[Paragraph, dict[str, Any]]]:
    for paragraph in _paragraphs(data):
        for question in paragraph["qas"]:
            yield paragraph, question


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _tokenizer(pieces: list[str]) -> Tokenizer:
    model = WordPiece(vocab={piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


@pytest.fixture(scope="module")
def train() -> dict[str, Any]:
    return starter.generate(seed=0, articles=1500, version_2=False, split="train")


@pytest.fixture(scope="module")
def dev() -> dict[str, Any]:
    return starter.generate(seed=0, articles=300, version_2=False, split="dev")


@pytest.fixture(scope="module")
def dev_2() -> dict[str, Any]:
    return starter.generate(seed=0, articles=300, version_2=True, split="dev")


@pytest.fixture(scope="module")
def pieces(train: dict[str, Any]) -> list[str]:
    return vocabulary.train(starter.texts(train), size=2048)


def test_every_process_makes_the_same_data_and_vocabulary_without_files_or_network() -> None:
    program = """
import hashlib, json, sys
from mobilebert_exp.data import starter, vocabulary
def forbid(event, _):
    if event == "open" or event.startswith(("socket.", "urllib.", "subprocess.")):
        raise RuntimeError(event)
sys.addaudithook(forbid)
data = starter.generate(seed=5, articles=60, version_2=True, split="dev")
pieces = vocabulary.train(starter.texts(data), size=900)
print(hashlib.sha256(json.dumps([data, pieces]).encode()).hexdigest())
"""
    found = set()
    for hash_seed in ("0", "1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(CHECKOUT)}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        found.add(done.stdout.strip())
    data = starter.generate(seed=5, articles=60, version_2=True, split="dev")
    assert found == {_digest([data, vocabulary.train(starter.texts(data), size=900)])}


def test_seed_and_split_change_the_data_and_more_articles_extend_it() -> None:
    def make(seed: int, articles: int, split: str) -> list[Any]:
        return list(starter.generate(seed=seed, articles=articles, version_2=False, split=split)["data"])

    assert make(0, 40, "train")[:25] == make(0, 25, "train")
    assert make(0, 25, "train") != make(1, 25, "train")
    assert {p["context"] for a in make(0, 25, "train") for p in a["paragraphs"]}.isdisjoint(
        p["context"] for a in make(0, 25, "dev") for p in a["paragraphs"]
    )


def test_people_facts_titles_and_ids_of_dev_are_new_whatever_the_seed(train: dict[str, Any]) -> None:
    def facts(data: dict[str, Any]) -> set[tuple[str, str, str]]:
        return {(f["person"], f["relation"], f["value"].lower()) for p in _paragraphs(data) for f in p["facts"]}

    for seed in (0, 3):
        dev = starter.generate(seed=seed, articles=300, version_2=False, split="dev")
        assert facts(dev).isdisjoint(facts(train))
        assert {person for person, _, _ in facts(dev)}.isdisjoint(person for person, _, _ in facts(train))
        assert {a["title"] for a in dev["data"]}.isdisjoint(a["title"] for a in train["data"])
        assert {q["id"] for _, q in _questions(dev)}.isdisjoint(q["id"] for _, q in _questions(train))
    train_text = " ".join(starter.texts(train))
    dev_2 = starter.generate(seed=0, articles=300, version_2=True, split="dev")
    for person in {person for person, _, _ in facts(dev_2)}:
        assert person not in train_text
        first_name, surname = person.split()
        assert first_name in train_text
        assert surname in train_text


def test_titles_and_ids_are_unique(dev: dict[str, Any]) -> None:
    for values in ([a["title"] for a in dev["data"]], [q["id"] for _, q in _questions(dev)]):
        assert len(values) == len(set(values))


@pytest.mark.parametrize("version_2", [False, True])
def test_answers_stand_at_their_offsets_and_only_there(version_2: bool) -> None:
    data = starter.generate(seed=1, articles=400, version_2=version_2, split="train")
    answered = 0
    for paragraph, question in _questions(data):
        for answer in question["answers"]:
            start, text = answer["answer_start"], answer["text"]
            assert paragraph["context"][start : start + len(text)] == text
            assert len(re.findall(rf"\b{re.escape(text.lower())}\b", paragraph["context"].lower())) == 1
            answered += 1
    assert answered > 500


def _check_kinds(data: dict[str, Any]) -> None:
    for paragraph, question in _questions(data):
        values = [f["value"].lower() for f in paragraph["facts"] if f["relation"] == question["relation"]]
        if question["kind"] == starter.LOOKUP:
            assert len(values) == 1
        elif question["kind"] == starter.MATCHING:
            assert 2 <= len(values) <= 4
            assert len(set(values)) == len(values)
        else:
            assert question["kind"] == starter.UNANSWERABLE
            assert question["answers"] == []


def test_kinds_are_graded_truly(dev: dict[str, Any], dev_2: dict[str, Any]) -> None:
    _check_kinds(dev)
    _check_kinds(dev_2)


def test_a_question_names_exactly_the_person_whose_value_answers_it(dev: dict[str, Any]) -> None:
    for paragraph, question in _questions(dev):
        named = [f for f in paragraph["facts"] if f["person"].split()[0] in question["question"]]
        answer = question["answers"][0]["text"]
        assert [f["value"] for f in named if f["relation"] == question["relation"]] == [answer]
        sentence = next(s for s in paragraph["context"].split(". ") if answer in s)
        assert named[0]["person"].split()[0] in sentence


def test_unanswerable_questions_miss_the_relation_or_the_person_and_have_the_other(dev_2: dict[str, Any]) -> None:
    missing: Counter[str] = Counter()
    for paragraph, question in _questions(dev_2):
        assert question["is_impossible"] == (question["kind"] == starter.UNANSWERABLE) == (not question["answers"])
        if question["is_impossible"]:
            has_relation = question["relation"] in {f["relation"] for f in paragraph["facts"]}
            has_person = any(f["person"].split()[0] in question["question"] for f in paragraph["facts"])
            assert has_relation != has_person
            missing["person" if has_relation else "relation"] += 1
    assert 0.4 < missing["person"] / missing.total() < 0.6


def test_first_names_and_surnames_are_unique_within_a_paragraph(dev: dict[str, Any]) -> None:
    for paragraph in _paragraphs(dev):
        people = {f["person"] for f in paragraph["facts"]}
        for part in (0, 1):
            assert len({person.split()[part] for person in people}) == len(people)


@pytest.mark.parametrize("lookup_share", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("unanswerable_share", [0.0, 0.25, 0.5])
def test_shares_are_kept_to_one_question(lookup_share: float, unanswerable_share: float) -> None:
    recipe = starter.Recipe(lookup_share=lookup_share, unanswerable_share=unanswerable_share)
    data = starter.generate(seed=2, articles=150, version_2=True, split="train", recipe=recipe)
    kinds = Counter(question["kind"] for _, question in _questions(data))
    total = kinds.total()
    assert abs(kinds[starter.UNANSWERABLE] - unanswerable_share * total) <= 1
    assert abs(kinds[starter.LOOKUP] - (1 - unanswerable_share) * lookup_share * total) <= 1
    assert abs(kinds[starter.MATCHING] - (1 - unanswerable_share) * (1 - lookup_share) * total) <= 1


def test_version_1_has_only_answerable_questions(dev: dict[str, Any]) -> None:
    assert dev["version"] == "1.1"
    assert all(len(question["answers"]) == 1 and "is_impossible" not in question for _, question in _questions(dev))


def test_baseline_solves_lookup_and_guesses_matching(dev: dict[str, Any], dev_2: dict[str, Any]) -> None:
    for data in (dev, dev_2):
        predicted = starter.relation_baseline(data)
        right: Counter[str] = Counter()
        asked: Counter[str] = Counter()
        chance = 0.0
        for paragraph, question in _questions(data):
            asked[question["kind"]] += 1
            right[question["kind"]] += predicted[question["id"]] == "".join(a["text"] for a in question["answers"])
            if question["kind"] == starter.MATCHING:
                chance += 1 / sum(f["relation"] == question["relation"] for f in paragraph["facts"])
        assert set(predicted) == {question["id"] for _, question in _questions(data)}
        assert right[starter.LOOKUP] == asked[starter.LOOKUP] > 0
        assert abs(right[starter.MATCHING] - chance) / asked[starter.MATCHING] < 0.08


def test_lengths_fit_96_wordpieces(
    train: dict[str, Any], dev: dict[str, Any], dev_2: dict[str, Any], pieces: list[str]
) -> None:
    tokenizer = _tokenizer(pieces)
    for data in (train, dev, dev_2):
        for paragraph in _paragraphs(data):
            assert len(tokenizer.encode(paragraph["context"]).ids) <= 64
            assert 2 <= paragraph["context"].count(". ") + 1 <= 7
            assert 3 <= len(paragraph["qas"]) <= 5
        assert max(len(tokenizer.encode(question["question"]).ids) for _, question in _questions(data)) <= 14


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_recipe_gives_data_that_keep_the_laws(data: st.DataObject) -> None:
    def ascending(low: int, high: int) -> tuple[int, int]:
        first, second = sorted(data.draw(st.tuples(st.integers(low, high), st.integers(low, high))))
        return first, second

    questions = ascending(1, 8)
    most = data.draw(st.integers(questions[1] + 1, 20))
    recipe = starter.Recipe(
        people=ascending(2, 12),
        questions=questions,
        sentences=(data.draw(st.integers(2, most)), most),
        paragraphs=data.draw(st.integers(1, 3)),
        lookup_share=data.draw(st.floats(0, 1)),
        unanswerable_share=data.draw(st.floats(0, 1)),
        distractor_share=data.draw(st.floats(0, 1)),
        joined_share=data.draw(st.floats(0, 1)),
        first_names=data.draw(st.integers(20, 200)),
    )
    made = starter.generate(seed=data.draw(st.integers(0, 99)), articles=4, version_2=True, split="dev", recipe=recipe)
    _check_kinds(made)
    for paragraph in _paragraphs(made):
        assert len(_words(paragraph["context"])) <= 9 * most
        assert questions[0] <= len(paragraph["qas"]) <= questions[1]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"people": (1, 3)}, "starter.people=1..3 is not an ascending range within 2..12; change it"),
        ({"sentences": (7, 5)}, "starter.sentences=7..5 is not an ascending range within 2..20; change it"),
        (
            {"sentences": (5, 5)},
            "starter.sentences=5 at most cannot hold 5 questions; allow at least one sentence more than questions",
        ),
        ({"lookup_share": 1.5}, "starter.lookup_share=1.5 is not a share; choose one in [0, 1]"),
        ({"paragraphs": 0}, "starter.paragraphs=0 is below 1; raise it"),
    ],
)
def test_a_wrong_recipe_is_one_line(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        starter.Recipe(**wrong)
    assert str(caught.value) == text


def test_wrong_arguments_are_one_line() -> None:
    with pytest.raises(ConfigError, match="starter split='test' is unknown; choose train or dev"):
        starter.generate(seed=0, articles=1, version_2=False, split="test")
    with pytest.raises(ConfigError, match="starter articles=-1 is below 0; raise it"):
        starter.generate(seed=0, articles=-1, version_2=False, split="train")


def test_names_are_words_of_nothing_else() -> None:
    names = [*world.FIRST_NAMES, *world.SURNAMES, *world.TOWNS, *world.LANGUAGES]
    assert len({name.lower() for name in names}) == len(names)
    assert len(world.FIRST_NAMES) == 200
    for pool in (
        world.INSTRUMENTS, world.SUBJECTS, world.REPAIRS, world.COLLECTIONS, world.TRADES, world.ANIMALS, world.COLOURS,
        world.TOWNS, world.LANGUAGES, world.BIRTH_YEARS, world.LATER_YEARS,
    ):  # fmt: skip
        assert 30 <= len(pool) <= 80
        assert len(set(pool)) == len(pool)
        assert max(len(value.split()) for value in pool) <= 2


def test_vocabulary_starts_with_the_special_tokens_and_has_no_duplicates(pieces: list[str]) -> None:
    assert tuple(pieces[:5]) == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert len(pieces) == len(set(pieces)) <= 2048


def test_vocabulary_holds_every_dev_word_whole(pieces: list[str], dev: dict[str, Any], dev_2: dict[str, Any]) -> None:
    tokenizer = _tokenizer(pieces)
    for data in (dev, dev_2):
        for text in starter.texts(data):
            assert tokenizer.encode(text).tokens == _words(text)


def test_vocabulary_covers_foreign_words_piece_by_piece(pieces: list[str]) -> None:
    tokens = _tokenizer(pieces).encode("Xylophonists (quizzing #42) jumped; vexed by '99s fjords").tokens
    assert "[UNK]" not in tokens
    assert "".join(token.removeprefix("##") for token in tokens) == "xylophonists(quizzing#42)jumped;vexedby'99sfjords"


def test_vocabulary_respects_its_size_and_keeps_the_frequent_words_whole(train: dict[str, Any]) -> None:
    texts = starter.texts(train)
    counts = Counter(word for text in texts for word in _words(text))
    previous: set[str] = set()
    for size in (500, 900):
        pieces = set(vocabulary.train(texts, size=size))
        assert len(pieces) <= size
        whole = {word for word in counts if word in pieces}
        assert {word for word, _ in counts.most_common(30)} <= whole
        assert len(whole) > len(previous)
        previous = whole


def test_vocabulary_merges_the_most_frequent_neighbours_first() -> None:
    pieces = vocabulary.train(["abab abab abc cd"], size=5 + 32 + 36 + 36 + 1)
    assert pieces[-1] == "ab"


def test_a_vocabulary_too_small_for_its_characters_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        vocabulary.train(["abc"], size=50)
    assert str(caught.value) == (
        "vocabulary size=50 cannot hold 5 special tokens and 104 characters; raise it to at least 109"
    )
