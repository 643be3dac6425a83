"""How a fact is told and asked: the relations, their phrasings, and sentences that tell no fact of anybody.

Placeholders: `{name}` the person, `{value}` the fact's value, `{a}` the article that fits the value, `{guest}` the one
visitor of a paragraph, `{town}` and `{year}` values that answer nothing. The first statement of each relation is short
enough for any name and value.
"""

from __future__ import annotations

from dataclasses import dataclass

from mobilebert_exp.data.starter import world


@dataclass(kw_only=True, frozen=True, slots=True)
class Relation:
    """What can be known of a person: the values it takes, and its phrasings."""

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


RELATIONS = (
    Relation(
        name="plays",
        values=world.INSTRUMENTS,
        statements=(
            "{name} plays the {value}",
            "{name} performs on the {value}",
            "{name} has long played the {value}",
            "{name} practises the {value} every evening",
            "the {value} is played by {name}",
            "on feast days {name} plays the {value}",
        ),
        questions=(
            "What does {name} play?",
            "Which instrument does {name} play?",
            "What instrument is played by {name}?",
            "On which instrument does {name} perform?",
            "Which instrument does {name} practise?",
        ),
    ),
    Relation(
        name="lives",
        values=world.TOWNS,
        statements=(
            "{name} lives in {value}",
            "{name} has a house in {value}",
            "the home of {name} is in {value}",
            "{name} settled in {value} long ago",
            "{name} now resides in {value}",
            "{value} is where {name} lives",
        ),
        questions=(
            "Where does {name} live?",
            "In which town does {name} live?",
            "Where is the home of {name}?",
            "Where did {name} settle?",
            "Where does {name} have a house?",
        ),
    ),
    Relation(
        name="birthplace",
        values=world.TOWNS,
        statements=(
            "{name} was born in {value}",
            "{name} comes from {value}",
            "{name} is a native of {value}",
            "{value} is the birthplace of {name}",
            "the birthplace of {name} is {value}",
        ),
        questions=(
            "Where was {name} born?",
            "In which town was {name} born?",
            "What is the birthplace of {name}?",
            "Where does {name} come from?",
            "Of which town is {name} a native?",
        ),
    ),
    Relation(
        name="birth_year",
        values=world.BIRTH_YEARS,
        statements=(
            "{name} was born in {value}",
            "in {value} {name} was born",
            "{name} was born in the year {value}",
            "the birth year of {name} is {value}",
            "{name} came into the world in {value}",
        ),
        questions=(
            "When was {name} born?",
            "In what year was {name} born?",
            "In which year was {name} born?",
            "What is the birth year of {name}?",
        ),
    ),
    Relation(
        name="teaches",
        values=world.SUBJECTS,
        statements=(
            "{name} teaches {value}",
            "{name} gives lessons in {value}",
            "{name} teaches {value} at the school",
            "{value} is taught by {name}",
            "pupils learn {value} from {name}",
            "{name} lectures on {value}",
        ),
        questions=(
            "What does {name} teach?",
            "Which subject does {name} teach?",
            "What subject is taught by {name}?",
            "In what does {name} give lessons?",
            "What do pupils learn from {name}?",
        ),
    ),
    Relation(
        name="repairs",
        values=world.REPAIRS,
        statements=(
            "{name} repairs {value}",
            "{name} mends {value}",
            "{name} repairs {value} in a workshop",
            "people bring broken {value} to {name}",
            "{name} is skilled at mending {value}",
            "broken {value} are fixed by {name}",
        ),
        questions=(
            "What does {name} repair?",
            "What does {name} mend?",
            "What kind of things does {name} repair?",
            "Which broken things does {name} fix?",
            "What do people bring to {name}?",
        ),
    ),
    Relation(
        name="collects",
        values=world.COLLECTIONS,
        statements=(
            "{name} collects {value}",
            "{name} likes to collect {value}",
            "{name} has a collection of {value}",
            "the shelves of {name} hold {value}",
            "{name} has gathered {value} since childhood",
            "{value} are collected by {name}",
        ),
        questions=(
            "What does {name} collect?",
            "What does {name} like to collect?",
            "What do the shelves of {name} hold?",
            "What has {name} gathered since childhood?",
            "Which things does {name} collect?",
        ),
    ),
    Relation(
        name="met",
        values=world.LATER_YEARS,
        statements=(
            "{name} met {guest} in {value}",
            "in {value} {name} met {guest}",
            "{guest} met {name} in {value}",
            "{name} knew {guest} from {value} on",
            "{guest} visited {name} in {value}",
        ),
        questions=(
            "When did {name} meet {guest}?",
            "In what year did {name} meet {guest}?",
            "In which year did {guest} meet {name}?",
            "When did {name} get to know {guest}?",
        ),
    ),
    Relation(
        name="trade",
        values=world.TRADES,
        statements=(
            "{name} is {a} {value}",
            "{name} works as {a} {value}",
            "{name} earns a living as {a} {value}",
            "by trade {name} is {a} {value}",
            "{name} was trained as {a} {value}",
        ),
        questions=(
            "What is the trade of {name}?",
            "What does {name} work as?",
            "Which trade does {name} follow?",
            "How does {name} earn a living?",
        ),
    ),
    Relation(
        name="keeps",
        values=world.ANIMALS,
        statements=(
            "{name} keeps {value}",
            "{name} raises {value}",
            "{name} looks after {value}",
            "behind the house {name} keeps {value}",
            "{value} are raised by {name}",
            "{name} feeds {value} every morning",
        ),
        questions=(
            "Which animals does {name} keep?",
            "What animals does {name} raise?",
            "Which animals does {name} look after?",
            "What animals are fed by {name}?",
        ),
    ),
    Relation(
        name="speaks",
        values=world.LANGUAGES,
        statements=(
            "{name} speaks {value}",
            "{name} speaks {value} at home",
            "{name} is fluent in {value}",
            "the mother tongue of {name} is {value}",
            "{name} grew up speaking {value}",
            "{name} writes letters in {value}",
        ),
        questions=(
            "Which language does {name} speak?",
            "What language does {name} speak?",
            "In which language is {name} fluent?",
            "What is the mother tongue of {name}?",
            "In what language does {name} write letters?",
        ),
    ),
    Relation(
        name="wears",
        values=world.COLOURS,
        statements=(
            "{name} wears {a} {value} coat",
            "{name} bought {a} {value} coat",
            "the coat of {name} is {value}",
            "everyone knows the {value} coat of {name}",
            "{name} is seen in {a} {value} coat",
        ),
        questions=(
            "What colour is the coat of {name}?",
            "Which colour does {name} wear?",
            "What colour of coat does {name} wear?",
            "Of what colour is the coat of {name}?",
        ),
    ),
)

DISTRACTORS = (
    "the market opens at dawn",
    "the road to {town} was closed that spring",
    "heavy rain fell during the whole of {year}",
    "the bridge near {town} is very old",
    "a fair is held in {town} each autumn",
    "the winter of {year} was long and cold",
    "nobody remembers who built the tower",
    "the river floods the lower meadows",
    "travellers often stop in {town} for the night",
    "a new town hall was opened in {year}",
    "the harvest of {year} was very good",
    "most streets are narrow and steep",
    "the old mill stands empty today",
    "letters take three days to reach {town}",
    "the harbour of {town} freezes every winter",
    "a great fire broke out in {year}",
    "the inn was sold in {year}",
    "fog hides the hills until noon",
    "the school has only two rooms",
    "the forest begins just beyond the last house",
)
