"""Composes articles: who appears in a paragraph, what is told of them, and what is asked.

A sentence always names its person, by full name where the person first appears and often by first name later; no two
people of a paragraph share a first name or a surname, and no value occurs twice. So each question has one answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from random import Random
from string import Formatter
from typing import Any

from mobilebert_exp.data.starter import world
from mobilebert_exp.data.starter.phrasing import DISTRACTORS, RELATIONS, Relation
from mobilebert_exp.data.starter.world import Person
from mobilebert_exp.errors import ConfigError

LOOKUP = "lookup"
MATCHING = "matching"
UNANSWERABLE = "unanswerable"

MOST_VALUES = max(len(relation.values) for relation in RELATIONS)
WORDS_PER_FACT = 9  # punctuation counts; keeps seven sentences below 64 wordpieces
MAX_SHARED = 4  # people of a paragraph who have the same relation
FIRST_NAME_SHARE = 0.7  # of the later mentions of a person


def _range(name: str, bounds: tuple[int, int], *, lowest: int, highest: int) -> None:
    low, high = bounds
    if not lowest <= low <= high <= highest:
        raise ConfigError(
            f"starter.{name}={low}..{high} is not an ascending range within {lowest}..{highest}; change it"
        )


@dataclass(kw_only=True, frozen=True, slots=True)
class Recipe:
    """How hard the data are; ranges include both ends.

    Attributes:
      people: whom a paragraph may draw on; at most four of them share a relation.
      sentences: facts and distractors of a paragraph together, a joined sentence counting twice.
      questions: asked of each paragraph.
      paragraphs: of each article.
      lookup_share: of the answerable questions; the rest is matching.
      unanswerable_share: of all questions of v2.0 data.
      distractor_share: of the sentences nothing is asked about; the rest are facts.
      joined_share: chance that two facts of one person share a sentence.
      full_name_share: of the questions, which otherwise give the first name alone.
      first_names: how many of the first names are in use; fewer are easier to learn.
      relations: how many of the relations are in use.
      values: how many values of each relation are in use.
    """

    people: tuple[int, int] = (2, 4)
    sentences: tuple[int, int] = (5, 7)
    questions: tuple[int, int] = (3, 5)
    paragraphs: int = 1
    lookup_share: float = 0.5
    unanswerable_share: float = 0.5
    distractor_share: float = 0.5
    joined_share: float = 0.1
    full_name_share: float = 0.5
    first_names: int = len(world.FIRST_NAMES)
    relations: int = len(RELATIONS)
    values: int = MOST_VALUES

    def __post_init__(self) -> None:
        _range("people", self.people, lowest=2, highest=12)
        _range("questions", self.questions, lowest=1, highest=8)
        _range("sentences", self.sentences, lowest=2, highest=20)
        _range("first_names", (self.first_names, self.first_names), lowest=20, highest=len(world.FIRST_NAMES))
        _range("relations", (self.relations, self.relations), lowest=6, highest=len(RELATIONS))
        _range("values", (self.values, self.values), lowest=16, highest=MOST_VALUES)
        if self.sentences[1] <= self.questions[1]:
            raise ConfigError(
                f"starter.sentences={self.sentences[1]} at most cannot hold {self.questions[1]} questions; "
                "allow at least one sentence more than questions"
            )
        if self.paragraphs < 1:
            raise ConfigError(f"starter.paragraphs={self.paragraphs} is below 1; raise it")
        for name in ("lookup_share", "unanswerable_share", "distractor_share", "joined_share", "full_name_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"starter.{name}={getattr(self, name)} is not a share; choose one in [0, 1]")


@dataclass(kw_only=True, slots=True)
class Fact:
    """One fact; `start` is where its value begins in the paragraph, once that is written."""

    person: Person
    relation: Relation
    value: str
    asked: bool
    start: int = -1


@dataclass(kw_only=True, slots=True)
class Scene:
    """A paragraph before it is written."""

    people: list[Person]
    stranger: Person
    guest: str
    facts: list[Fact] = field(default_factory=list)
    distractors: list[str] = field(default_factory=list)
    absent: list[Relation] = field(default_factory=list)


@dataclass(slots=True)
class KindMixer:
    """Hands out kinds so that their shares hold at every moment, to within one question each."""

    shares: dict[str, float]
    given: dict[str, int] = field(default_factory=dict)

    def next(self) -> str:
        total = sum(self.given.values()) + 1
        kind = max(self.shares, key=lambda name: self.shares[name] * total - self.given.get(name, 0))
        self.given[kind] = self.given.get(kind, 0) + 1
        return kind


def articles(*, seed: int, count: int, version_2: bool, split: str, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """SQuAD articles, each drawn from its own generator: more articles never change the first ones."""
    unanswerable = recipe.unanswerable_share if version_2 else 0.0
    shares = {
        LOOKUP: (1 - unanswerable) * recipe.lookup_share,
        MATCHING: (1 - unanswerable) * (1 - recipe.lookup_share),
    }
    mixer = KindMixer({**shares, UNANSWERABLE: unanswerable})
    for index in range(count):
        rng = Random(f"{seed}/{split}/{index}")
        # Odd parts belong to train and even ones to dev, so that no title occurs in both.
        part = 2 * index + (1 if split == world.TRAIN else 2)
        paragraphs = []
        for number in range(recipe.paragraphs):
            kinds = [mixer.next() for _ in range(rng.randint(*recipe.questions))]
            prefix = f"{split}-{seed}-{index}-{number}"
            paragraphs.append(
                _paragraph(rng, kinds=kinds, prefix=prefix, version_2=version_2, split=split, recipe=recipe)
            )
        yield {"title": f"Annals of {rng.choice(world.TOWNS)}, part {part}", "paragraphs": paragraphs}


def _paragraph(
    rng: Random, *, kinds: list[str], prefix: str, version_2: bool, split: str, recipe: Recipe
) -> dict[str, Any]:
    scene = _scene(rng, kinds=kinds, split=split, recipe=recipe)
    context = _write(rng, scene, joined_share=recipe.joined_share)
    questions = _questions(rng, scene, kinds=kinds, context=context, recipe=recipe)
    for number, question in enumerate(questions):
        question["id"] = f"{prefix}-{number}"
        if version_2:
            question["is_impossible"] = question["kind"] == UNANSWERABLE
    told = sorted(scene.facts, key=lambda fact: fact.start)
    facts = [
        {
            "person": fact.person.full_name,
            "relation": fact.relation.name,
            "value": context[fact.start : fact.start + len(fact.value)],
        }
        for fact in told
    ]
    return {"context": context, "facts": facts, "qas": questions}


def _scene(rng: Random, *, kinds: list[str], split: str, recipe: Recipe) -> Scene:
    count = rng.randint(*recipe.people)
    *people, stranger, visitor = world.draw_people(rng, count=count + 2, split=split, first_names=recipe.first_names)
    scene = Scene(people=people, stranger=stranger, guest=f"{rng.choice(world.HONORIFICS)} {visitor.surname}")
    scene.absent = rng.sample(RELATIONS[: recipe.relations], recipe.relations)
    used: set[str] = set()
    lookups = kinds.count(LOOKUP)
    for size, asked in _groups(rng, matching=kinds.count(MATCHING), room=recipe.sentences[1] - lookups, people=count):
        _tell(rng, scene, used=used, people=rng.sample(people, size), asked=asked, values=recipe.values)
    for _ in range(lookups):
        _tell(rng, scene, used=used, people=[rng.choice(people)], asked=1, values=recipe.values)
    distractors = rng.sample(DISTRACTORS, len(DISTRACTORS))
    for _ in range(rng.randint(*recipe.sentences) - len(scene.facts)):
        # One relation stays untold, so that an unanswerable question can ask for it.
        is_fact = len(scene.absent) > 1 and rng.random() >= recipe.distractor_share
        if is_fact or not scene.facts:
            _tell(rng, scene, used=used, people=[rng.choice(people)], asked=0, values=recipe.values)
        else:
            town, year = _fresh(rng, world.TOWNS, used=used), _fresh(rng, world.LATER_YEARS, used=used)
            scene.distractors.append(distractors.pop().format(town=town, year=year))
    return scene


def _groups(rng: Random, *, matching: int, room: int, people: int) -> Iterator[tuple[int, int]]:
    """(people who share a relation, questions about them), until all matching questions are placed."""
    while matching > 0:
        sizes = []
        for size in range(2, min(MAX_SHARED, people) + 1):
            left = max(0, matching - size)
            if size + left + left % 2 <= room:
                sizes.append(size)
        size = rng.choice(sizes)
        asked = min(size, matching)
        matching -= asked
        room -= size
        yield size, asked


def _tell(rng: Random, scene: Scene, *, used: set[str], people: list[Person], asked: int, values: int) -> None:
    relation = scene.absent.pop()
    for number, person in enumerate(people):
        value = _fresh(rng, relation.values[:values], used=used)
        scene.facts.append(Fact(person=person, relation=relation, value=value, asked=number < asked))


def _fresh(rng: Random, values: tuple[str, ...], *, used: set[str]) -> str:
    value = rng.choice(values)
    while not used.isdisjoint(value.split()):
        value = rng.choice(values)
    used.update(value.split())
    return value


def _write(rng: Random, scene: Scene, *, joined_share: float) -> str:
    """The paragraph's text; notes in each fact where its value begins."""
    clauses: list[list[Fact] | str] = [*_joined(rng, scene.facts, share=joined_share), *scene.distractors]
    rng.shuffle(clauses)
    mentioned: set[str] = set()
    text = ""
    for clause in clauses:
        start = len(text)
        if isinstance(clause, str):
            text += clause
        else:
            text = _write_facts(rng, clause, text=text, scene=scene, mentioned=mentioned)
        text = text[:start] + text[start].upper() + text[start + 1 :] + ". "
    return text.rstrip()


def _joined(rng: Random, facts: list[Fact], *, share: float) -> list[list[Fact]]:
    """Facts by sentence: one each, or two of the same person."""
    sentences: list[list[Fact]] = []
    for fact in facts:
        partners = [s for s in sentences if len(s) == 1 and s[0].person == fact.person]
        if partners and rng.random() < share:
            partners[0].append(fact)
        else:
            sentences.append([fact])
    return sentences


def _write_facts(rng: Random, facts: list[Fact], *, text: str, scene: Scene, mentioned: set[str]) -> str:
    person = facts[0].person
    name = person.full_name
    if name in mentioned and rng.random() < FIRST_NAME_SHARE:
        name = person.first_name
    mentioned.add(person.full_name)
    for number, fact in enumerate(facts):
        statements = fact.relation.statements
        if len(facts) > 1:
            statements = tuple(s for s in statements if s.startswith("{name} "))
        template = rng.choice(statements)
        if _length(template, name=name, value=fact.value) > WORDS_PER_FACT:
            template = statements[0]
        if number:
            text += " and "
            template = template.removeprefix("{name} ")
        words = {"name": name, "guest": scene.guest, "value": fact.value, "a": _article(fact.value)}
        for literal, placeholder in _pieces(template):
            text += literal
            if placeholder == "value":
                fact.start = len(text)
            text += words[placeholder] if placeholder else ""
    return text


@cache
def _pieces(template: str) -> tuple[tuple[str, str], ...]:
    return tuple((literal, placeholder or "") for literal, placeholder, _, _ in Formatter().parse(template))


def _length(template: str, *, name: str, value: str) -> int:
    """Words of the sentence, its full stop included; a guest has two words."""
    extra = name.count(" ") + value.count(" ") + template.count("{guest}")
    return len(template.split()) + extra + 1


def _article(value: str) -> str:
    return "an" if value[0] in "aeiou" else "a"


def _questions(rng: Random, scene: Scene, *, kinds: list[str], context: str, recipe: Recipe) -> list[dict[str, Any]]:
    questions = []
    shared = [fact.relation.name for fact in scene.facts]
    for fact in scene.facts:
        if fact.asked:
            kind = MATCHING if shared.count(fact.relation.name) > 1 else LOOKUP
            answer = {"text": context[fact.start : fact.start + len(fact.value)], "answer_start": fact.start}
            asked = _ask(rng, fact.person, fact.relation, guest=scene.guest, full_name_share=recipe.full_name_share)
            questions.append({**asked, "kind": kind, "answers": [answer]})
    known: set[tuple[str, str]] = set()
    for _ in range(kinds.count(UNANSWERABLE)):
        person, relation = _unanswerable(rng, scene, known=known)
        asked = _ask(rng, person, relation, guest=scene.guest, full_name_share=recipe.full_name_share)
        questions.append({**asked, "kind": UNANSWERABLE, "answers": []})
    rng.shuffle(questions)
    return questions


def _unanswerable(rng: Random, scene: Scene, *, known: set[tuple[str, str]]) -> tuple[Person, Relation]:
    """A person of the paragraph with a relation nobody has there, or a relation told there with a stranger."""
    present = [fact.person for fact in scene.facts]
    told = [fact.relation for fact in scene.facts]
    while True:
        if rng.random() < 0.5:
            person, relation = rng.choice(present), rng.choice(scene.absent)
        else:
            person, relation = scene.stranger, rng.choice(told)
        if (person.full_name, relation.name) not in known:
            known.add((person.full_name, relation.name))
            return person, relation


def _ask(rng: Random, person: Person, relation: Relation, *, guest: str, full_name_share: float) -> dict[str, Any]:
    name = person.full_name if rng.random() < full_name_share else person.first_name
    return {"question": rng.choice(relation.questions).format(name=name, guest=guest), "relation": relation.name}
