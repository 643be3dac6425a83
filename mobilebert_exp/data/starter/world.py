"""The invented world of the starter data: its people, its places, and what can be said of a person.

All pools are closed and shared by both splits, so that a small vocabulary holds every word. What is disjoint is the
pairing: a full name belongs to exactly one split, whatever the seed, and so does every fact about its bearer.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

TRAIN = "train"
DEV = "dev"
DEV_ONE_IN = 5  # of all pairings of first name and surname


def _compounds(heads: str, tails: str) -> tuple[str, ...]:
    return tuple(head + tail for tail in tails.split() for head in heads.split())


def _pool(values: str) -> tuple[str, ...]:
    return tuple(values.split(","))


FIRST_NAMES = _compounds(
    "Al Be Bro Ca Da El Fa Ga He Il Jo Ka Li Ma Ne Or Pe Qui Ro Sa",
    "davan vilo rell moth tisha shenn lenka ricor nnavy wyth",
)
SURNAMES = _compounds(
    "Tarn Quel Vosk Brun Drel Fenn Grim Hask Jarn Kell Lorn Mard Norr Osk Pell Rusk Skel Thorn Ulm Wex",
    "ander ick oway ensby atter elby umber idge orrow olt",
)
TOWNS = _compounds("Tol Ver Mar Hes Cor Bel Dra Fen Gil Lan Nor Wil", "beck mouth stead haven combe")
LANGUAGES = _compounds("Vend Orl Kash Tem Bal Sur Mek Dov Zan Gorm", "ic ese ari oan")
HONORIFICS = ("Captain", "Doctor", "Judge", "Lady", "Bishop", "Major")
BIRTH_YEARS = tuple(str(year) for year in range(1701, 1751))
LATER_YEARS = tuple(str(year) for year in range(1751, 1801))

INSTRUMENTS = _pool(
    "lute,viol,harp,flute,drum,fiddle,cello,oboe,zither,bugle,trumpet,bassoon,clarinet,organ,guitar,mandolin,banjo,"
    "piccolo,trombone,cornet,spinet,clavichord,dulcimer,recorder,tambourine,triangle,hunting horn,bass viol,"
    "hand bell,reed pipe,bone whistle,alto sackbut,kettle gong,glass armonica,psaltery,accordion,lyre,tuba"
)
SUBJECTS = _pool(
    "astronomy,grammar,fencing,botany,geometry,algebra,logic,rhetoric,history,geography,chemistry,dancing,drawing,"
    "painting,singing,poetry,medicine,law,navigation,rowing,swimming,riding,archery,cookery,needlework,bookkeeping,"
    "handwriting,philosophy,theology,optics,anatomy,mechanics,surveying,chess,gymnastics,harmony,etiquette,"
    "mineral science,map reading,public speaking"
)
REPAIRS = _pool(
    "clocks,boats,wagons,boots,saddles,ploughs,kettles,lanterns,windmills,fences,roofs,chairs,nets,locks,pumps,"
    "bicycles,umbrellas,barrels,bridges,chimneys,ladders,looms,bellows,carriages,compasses,telescopes,watches,"
    "spectacles,sails,ovens,mattresses,printing presses,fishing rods,garden gates,church windows,wheelbarrows"
)
COLLECTIONS = _pool(
    "shells,stamps,coins,maps,buttons,feathers,fossils,butterflies,masks,keys,bottles,dolls,postcards,medals,thimbles,"
    "puppets,beads,ribbons,crystals,marbles,riddles,proverbs,teapots,hats,swords,seals,tickets,candles,vases,"
    "silver spoons,pressed flowers,old almanacs,dried leaves,bird eggs,snuff boxes,chessmen,sea stones"
)
TRADES = _pool(
    "baker,weaver,miller,cooper,tailor,potter,mason,glazier,barber,butcher,carpenter,farrier,tanner,dyer,brewer,"
    "cobbler,goldsmith,innkeeper,apothecary,engraver,upholsterer,archivist,printer,bookbinder,ferryman,gardener,"
    "shepherd,notary,surgeon,midwife,roper,chandler,thatcher,fishmonger,blacksmith,stonecutter,lighthouse keeper,"
    "night watchman,customs officer,ship broker"
)
ANIMALS = _pool(
    "goats,bees,geese,ducks,rabbits,pigeons,donkeys,sheep,ponies,hens,pigs,turkeys,swans,hounds,falcons,oxen,mules,"
    "llamas,peacocks,parrots,canaries,finches,tortoises,ferrets,snails,silkworms,quails,owls,ravens,hedgehogs,"
    "carp,trout,white mice,guinea fowl,mountain cats,brown cows"
)
COLOURS = _pool(
    "red,blue,green,yellow,black,purple,orange,grey,pink,crimson,scarlet,violet,indigo,amber,ivory,olive,"
    "turquoise,maroon,beige,tan,golden,copper,lilac,mauve,khaki,emerald,russet,charcoal,cream,navy"
)


@dataclass(kw_only=True, frozen=True, slots=True)
class Person:
    first_name: str
    surname: str

    @property
    def full_name(self) -> str:
        return f"{self.first_name} {self.surname}"


def owner(first: int, last: int) -> str:
    """The split that owns the pairing of `FIRST_NAMES[first]` with `SURNAMES[last]`."""
    return DEV if (first + last) % DEV_ONE_IN == 0 else TRAIN


def draw_people(rng: Random, *, count: int, split: str, first_names: int) -> list[Person]:
    """`count` people of `split`, no two of whom share a first name or a surname."""
    people: list[Person] = []
    surnames: set[int] = set()
    for first in rng.sample(range(first_names), count):
        last = rng.randrange(len(SURNAMES))
        while last in surnames or owner(first, last) != split:
            last = rng.randrange(len(SURNAMES))
        surnames.add(last)
        people.append(Person(first_name=FIRST_NAMES[first], surname=SURNAMES[last]))
    return people
