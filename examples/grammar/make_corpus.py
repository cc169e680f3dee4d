#!/usr/bin/env python3
"""Generate a synthetic English-German parallel corpus from a small grammar.

A sentence is a tree of the dataclasses below. `english` and `german` turn it into text, so each sentence has exactly
one translation. In English, word order alone shows who does what to whom. German shows it by case, agreement and the
position of the verb.
"""

from __future__ import annotations

import argparse
import os
import random
import stat
import tempfile
from collections import namedtuple
from collections.abc import Iterable
from dataclasses import dataclass, replace

NOMINATIVE, ACCUSATIVE, DATIVE = range(3)
GAP = None  # stands for the constituent that a relative pronoun replaces
LIMIT = 1_000_000  # the grammar can generate far more pairs; this limits the time and memory of a run
SHORTEST, LONGEST = 4, 14  # English words per sentence

# fmt: off
# English singular and plural; gender (w: weak masculine); German singular and plural.
PERSONS = """
teacher teachers m Lehrer Lehrer;  doctor doctors m Arzt Ärzte;  gardener gardeners m Gärtner Gärtner
man men m Mann Männer;  uncle uncles m Onkel Onkel;  king kings m König Könige;  boy boys w Junge Jungen
neighbour neighbours w Nachbar Nachbarn;  student students w Student Studenten;  woman women f Frau Frauen
queen queens f Königin Königinnen;  aunt aunts f Tante Tanten;  waitress waitresses f Kellnerin Kellnerinnen
grandmother grandmothers f Großmutter Großmütter;  girl girls n Mädchen Mädchen;  child children n Kind Kinder
"""
ANIMALS = """
dog dogs m Hund Hunde;  bird birds m Vogel Vögel;  bear bears w Bär Bären;  lion lions w Löwe Löwen
monkey monkeys w Affe Affen;  cat cats f Katze Katzen;  mouse mice f Maus Mäuse;  goat goats f Ziege Ziegen
horse horses n Pferd Pferde;  pig pigs n Schwein Schweine
"""
THINGS = """
suitcase suitcases m Koffer Koffer;  letter letters m Brief Briefe;  backpack backpacks m Rucksack Rucksäcke
bag bags f Tasche Taschen;  bottle bottles f Flasche Flaschen;  box boxes f Kiste Kisten
book books n Buch Bücher;  parcel parcels n Paket Pakete
"""
PLACES = """
garden gardens m Garten Gärten;  forest forests m Wald Wälder;  kitchen kitchens f Küche Küchen
church churches f Kirche Kirchen;  house houses n Haus Häuser;  castle castles n Schloss Schlösser
"""
NAMES = ("Anna", "Maria", "Sofia", "Paul", "Peter", "Felix")

# English adjective, and the German stem without its ending.
ADJECTIVES = {"old": "alt", "strong": "stark", "big": "groß", "small": "klein", "sad": "traurig",
              "happy": "glücklich", "tired": "müd", "clever": "klug", "friendly": "freundlich",
              "brave": "mutig", "hungry": "hungrig", "lazy": "faul", "funny": "lustig", "red": "rot",
              "beautiful": "schön", "new": "neu", "heavy": "schwer", "expensive": "teur"}
SIZES = ("big", "small")
QUALITIES = {
    "living": ("old", "strong", "sad", "happy", "tired", "clever", "friendly", "brave", "hungry", "lazy",
               "funny"),
    "thing": ("old", "beautiful", "new", "heavy", "expensive", "red"),
    "place": ("old", "beautiful"),
}

DETERMINERS = {"the": "d", "this": "dies", "every": "jed", "a": "ein", "no": "kein", "my": "mein",
               "our": "unser", "two": "zwei", "three": "drei", "": ""}
SINGULAR = ("the", "the", "the", "the", "a", "a", "a", "this", "every", "my", "our")
PLURAL = ("the", "the", "the", "the", "this", "two", "three", "my", "our", "")

# Endings in the nominative, accusative and dative. In these cases, strong adjectives and determiners such as dieser
# have the same endings.
STRONG = {"m": ("er", "en", "em"), "f": ("e", "e", "er"), "n": ("es", "es", "em"), "pl": ("e", "e", "en")}
WEAK = {"m": ("e", "en", "en"), "f": ("e", "e", "en"), "n": ("e", "e", "en"), "pl": ("en", "en", "en")}
DEFINITE = {"m": ("der", "den", "dem"), "f": ("die", "die", "der"), "n": ("das", "das", "dem"),
            "pl": ("die", "die", "den")}
RELATIVE = {**DEFINITE, "pl": ("die", "die", "denen")}
ENDINGLESS = {("m", NOMINATIVE), ("n", NOMINATIVE), ("n", ACCUSATIVE)}  # ein Hund, ein Kind

# Cases of the objects in English order; class of the subject; classes of the objects; then the verbs:
# base, third person, past [particle] | [prefix-]infinitive, third person, participle, auxiliary.
FRAMES = (
    ((), "living", (), """
sleep sleeps slept | schlafen schläft geschlafen hat;  wait waits waited | warten wartet gewartet hat
fall falls fell asleep | ein-schlafen schläft geschlafen ist
wake wakes woke up | auf-wachen wacht gewacht ist"""),
    ((), "person", (), """
laugh laughs laughed | lachen lacht gelacht hat;  sing sings sang | singen singt gesungen hat"""),
    ((ACCUSATIVE,), "living", ("living",), """
see sees saw | sehen sieht gesehen hat;  hear hears heard | hören hört gehört hat
find finds found | finden findet gefunden hat;  look looks looked for | suchen sucht gesucht hat
watch watches watched | beobachten beobachtet beobachtet hat"""),
    ((ACCUSATIVE,), "person", ("person",), """
visit visits visited | besuchen besucht besucht hat;  praise praises praised | loben lobt gelobt hat
invite invites invited | ein-laden lädt geladen hat;  phone phones phoned | an-rufen ruft gerufen hat"""),
    ((DATIVE,), "living", ("living",), """
help helps helped | helfen hilft geholfen hat;  follow follows followed | folgen folgt gefolgt ist"""),
    ((DATIVE,), "person", ("person",), """
thank thanks thanked | danken dankt gedankt hat;  listen listens listened to | zu-hören hört gehört hat"""),
    ((ACCUSATIVE,), "person", ("thing",), """
buy buys bought | kaufen kauft gekauft hat;  forget forgets forgot | vergessen vergisst vergessen hat
open opens opened | auf-machen macht gemacht hat;  close closes closed | zu-machen macht gemacht hat"""),
    ((DATIVE, ACCUSATIVE), "person", ("person", "thing"), """
give gives gave | geben gibt gegeben hat;  send sends sent | schicken schickt geschickt hat"""),
    ((DATIVE, ACCUSATIVE), "person", ("person", "living"), """
show shows showed | zeigen zeigt gezeigt hat"""),
    ((ACCUSATIVE, DATIVE), "person", ("person", "person"), """
introduce introduces introduced | vor-stellen stellt gestellt hat
describe describes described | beschreiben beschreibt beschrieben hat"""),
)
REPORTING = ((), "person", (), """
say says said | sagen sagt gesagt hat;  hope hopes hoped | hoffen hofft gehofft hat
know knows knew | wissen weiß gewusst hat""")

AUXILIARIES = {"hat": "haben", "ist": "sind"}
# English singular and plural; German singular and plural.
MODALS = {"can": ("can", "can", "kann", "können"), "must": ("must", "must", "muss", "müssen"),
          "should": ("should", "should", "sollte", "sollten"),
          "want to": ("wants to", "want to", "will", "wollen"), "will": ("will", "will", "wird", "werden")}
TENSES = ["present"] * 4 + ["past"] * 4 + list(MODALS)

# German adverbial, and the tenses that agree with it. The English past becomes the German perfect, as in speech.
ADVERBS = {
    "today": ("heute", {"present", "past", *MODALS}),
    "yesterday": ("gestern", {"past"}),
    "tomorrow": ("morgen", {*MODALS}),
    "now": ("jetzt", {"present", "must", "should", "can"}),
    "at night": ("nachts", {"present", "past", *MODALS}),
    "in summer": ("im Sommer", {"present", "past", *MODALS}),
    "on Monday": ("am Montag", {"past", "must", "should", "will"}),
    "on Friday": ("am Freitag", {"past", "must", "should", "will"}),
    "in the evening": ("am Abend", {"present", "past", *MODALS}),
}
PREPOSITIONS = {"with": ("mit", DATIVE), "behind": ("hinter", DATIVE), "next to": ("neben", DATIVE),
                "in front of": ("vor", DATIVE), "in": ("in", DATIVE),
                "without": ("ohne", ACCUSATIVE), "for": ("für", ACCUSATIVE)}
LOCATIVES = ("in", "behind", "in front of", "next to")
SUBORDINATORS = {"because": "weil", "although": "obwohl", "while": "während", "before": "bevor",
                 "if": "wenn", "that": "dass"}
COORDINATORS = {"and": "und", "but": "aber"}
# fmt: on


# Fields in the order of the tables above.
Noun = namedtuple("Noun", "singular plural gender german german_plural")
Verb = namedtuple(
    "Verb", "base third past particle prefix infinitive german_third participle auxiliary cases agent patients"
)


@dataclass(frozen=True)
class PrepositionalPhrase:
    """An English preposition and its noun phrase."""

    preposition: str
    noun_phrase: NounPhrase


@dataclass(frozen=True)
class NounPhrase:
    """A name, or a noun with a determiner ("" for none). A clause as modifier is a relative clause."""

    noun: str
    determiner: str = "the"
    adjectives: tuple[str, ...] = ()
    plural: bool = False
    modifier: PrepositionalPhrase | Clause | None = None


@dataclass(frozen=True)
class Clause:
    """A verb, identified by its English base form and particle, and its arguments. Objects are in English order.

    `tense` is "present", "past" or a key of MODALS. In a relative clause, the subject or one object is GAP. If there
    are two objects, only the last one may have a relative clause.
    """

    subject: NounPhrase | None
    verb: str
    objects: tuple[NounPhrase | None, ...] = ()
    tense: str = "present"
    adverbial: str | PrepositionalPhrase = ""
    fronted: bool = False


@dataclass(frozen=True)
class Sentence:
    """A main clause, optionally with a second clause. A subordinate clause may come first."""

    main: Clause
    conjunction: str = ""
    second: Clause | None = None
    second_first: bool = False


def _rows(table: str) -> list[str]:
    return table.strip().replace("\n", ";").split(";")


def _nouns(table: str) -> dict[str, Noun]:
    nouns = [Noun(*row.split()) for row in _rows(table)]
    return {noun.singular: noun for noun in nouns}


def _verbs(cases: tuple[int, ...], agent: str, patients: tuple[str, ...], table: str) -> dict[str, Verb]:
    verbs = {}
    for row in _rows(table):
        (base, third, past, *particle), (infinitive, *parts) = (side.split() for side in row.split("|"))
        prefix, _, infinitive = infinitive.rpartition("-")
        english_parts = base, third, past, "".join(particle)
        verb = Verb(*english_parts, prefix, infinitive, *parts, cases, agent, patients)
        verbs[" ".join([base, *particle])] = verb
    return verbs


NOUNS = {**_nouns(PERSONS), **_nouns(ANIMALS), **_nouns(THINGS), **_nouns(PLACES)}
CLASSES = {
    "person": [*_nouns(PERSONS)],
    "living": [*_nouns(PERSONS), *_nouns(ANIMALS)],
    "thing": [*_nouns(THINGS)],
    "place": [*_nouns(PLACES)],
}
REPORTING_VERBS = _verbs(*REPORTING)
PLAIN_VERBS = {name: verb for frame in FRAMES for name, verb in _verbs(*frame).items()}
VERBS = {**PLAIN_VERBS, **REPORTING_VERBS}
TRANSITIVE = [name for name, verb in PLAIN_VERBS.items() if verb.cases]


def _write(words: list[str]) -> str:
    # Clauses come with their own commas: two adjacent ones become one, and none is left before the full stop.
    text = " ".join([*words, "."]).replace(" ,", ",").replace(",,", ",").replace(", .", ".")
    text = text.replace(" .", ".")
    return text[0].upper() + text[1:]


def english(sentence: Sentence) -> str:
    """Return the English text of a sentence."""
    words = _english_clause(sentence.main)
    if not sentence.second:
        return _write(words)
    second = [sentence.conjunction, *_english_clause(sentence.second)]
    if sentence.second_first:
        return _write([*second, ",", *words])
    return _write([*words, *([","] if sentence.conjunction in COORDINATORS else []), *second])


def _english_noun_phrase(phrase: NounPhrase | None) -> list[str]:
    if phrase is GAP:
        return []
    if phrase.noun in NAMES:
        return [phrase.noun]
    noun = NOUNS[phrase.noun]
    words = [*phrase.adjectives, noun.plural if phrase.plural else noun.singular]
    determiner = phrase.determiner
    if determiner == "this" and phrase.plural:
        determiner = "these"
    if determiner == "a" and words[0][0] in "aeiou":
        determiner = "an"
    words = [determiner, *words] if determiner else words
    if isinstance(phrase.modifier, Clause):
        pronoun = "who" if phrase.noun in CLASSES["person"] else "which"
        return [*words, pronoun, *_english_clause(phrase.modifier, phrase)]
    return [*words, *_english_adverbial(phrase.modifier)]


def _english_adverbial(adverbial: str | PrepositionalPhrase | None) -> list[str]:
    if isinstance(adverbial, PrepositionalPhrase):
        return [adverbial.preposition, *_english_noun_phrase(adverbial.noun_phrase)]
    return [adverbial] if adverbial else []


def _english_clause(clause: Clause, head: NounPhrase | None = None) -> list[str]:
    verb, plural = VERBS[clause.verb], (clause.subject or head).plural
    if clause.tense in MODALS:
        words = [MODALS[clause.tense][plural], verb.base]
    else:
        words = [verb.past if clause.tense == "past" else verb.base if plural else verb.third]
    words = [*_english_noun_phrase(clause.subject), *words, *([verb.particle] if verb.particle else [])]
    for number, phrase in enumerate(clause.objects):
        words += ["to"] if number and verb.cases[number] == DATIVE else []
        words += _english_noun_phrase(phrase)
    adverbial = _english_adverbial(clause.adverbial)
    return [*adverbial, *words] if clause.fronted else [*words, *adverbial]


def german(sentence: Sentence) -> str:
    """Return the German text of a sentence."""
    if not sentence.second:
        return _write(_german_clause(sentence.main))
    if sentence.conjunction in COORDINATORS:
        comma = [","] if sentence.conjunction == "but" else []
        second = [*comma, COORDINATORS[sentence.conjunction], *_german_clause(sentence.second)]
        return _write([*_german_clause(sentence.main), *second])
    second = [SUBORDINATORS[sentence.conjunction], *_german_clause(sentence.second, verb_final=True)]
    if sentence.second_first:
        return _write(_german_clause(sentence.main, opening=[*second, ","]))
    return _write([*_german_clause(sentence.main), ",", *second])


def _gender(phrase: NounPhrase) -> str:
    return "pl" if phrase.plural else NOUNS[phrase.noun].gender.replace("w", "m")


def decline_determiner(determiner: str, gender: str, case: int) -> str:
    """Return the German form of an English determiner. Without an ending, it equals the stem."""
    stem = DETERMINERS[determiner]
    if determiner == "the":
        return DEFINITE[gender][case]
    if determiner in ("two", "three", "") or (stem[-2:] in ("in", "er") and (gender, case) in ENDINGLESS):
        return stem
    return stem + STRONG[gender][case]


def decline_noun(noun: Noun, plural: bool, case: int) -> str:
    """Return the German form of a noun."""
    if plural:
        form = noun.german_plural
        return form + "n" if case == DATIVE and form[-1] not in "ns" else form
    # The accusative and dative of a weak noun equal its plural: den Jungen, die Jungen.
    return noun.german_plural if noun.gender == "w" and case != NOMINATIVE else noun.german


def _german_noun_phrase(phrase: NounPhrase, case: int) -> list[str]:
    if phrase.noun in NAMES:
        return [phrase.noun]
    gender = _gender(phrase)
    determiner = decline_determiner(phrase.determiner, gender, case)
    # The adjective shows gender and case only if the determiner does not.
    endings = STRONG if determiner == DETERMINERS[phrase.determiner] else WEAK
    words = [ADJECTIVES[adjective] + endings[gender][case] for adjective in phrase.adjectives]
    words = [determiner, *words, decline_noun(NOUNS[phrase.noun], phrase.plural, case)]
    words = words if determiner else words[1:]
    return words if isinstance(phrase.modifier, Clause) else [*words, *_german_adverbial(phrase.modifier)]


def _relative_clause(phrase: NounPhrase) -> list[str]:
    clause = phrase.modifier
    if not isinstance(clause, Clause):
        return []
    cases = VERBS[clause.verb].cases
    case = cases[clause.objects.index(GAP)] if clause.subject else NOMINATIVE
    return [",", RELATIVE[_gender(phrase)][case], *_german_clause(clause, verb_final=True, head=phrase), ","]


def _german_adverbial(adverbial: str | PrepositionalPhrase | None) -> list[str]:
    if not isinstance(adverbial, PrepositionalPhrase):
        return [ADVERBS[adverbial][0]] if adverbial else []
    preposition, case = PREPOSITIONS[adverbial.preposition]
    words = [preposition, *_german_noun_phrase(adverbial.noun_phrase, case)]
    return ["im", *words[2:]] if words[:2] == ["in", "dem"] else words


def _predicate(clause: Clause, plural: bool) -> tuple[str, list[str]]:
    # The finite verb, and the words that close the clause: separable prefix, participle or infinitive.
    verb = VERBS[clause.verb]
    if clause.tense == "present":
        return verb.infinitive if plural else verb.german_third, [verb.prefix] if verb.prefix else []
    if clause.tense == "past":
        finite = AUXILIARIES[verb.auxiliary] if plural else verb.auxiliary
        return finite, [verb.prefix + verb.participle]
    return MODALS[clause.tense][2 + plural], [verb.prefix + verb.infinitive]


def _german_clause(
    clause: Clause, verb_final: bool = False, opening: list[str] | None = None, head: NounPhrase | None = None
) -> list[str]:
    finite, closing = _predicate(clause, (clause.subject or head).plural)
    subject = []
    if clause.subject:
        subject = [*_german_noun_phrase(clause.subject, NOMINATIVE), *_relative_clause(clause.subject)]
    middle = [] if clause.fronted else _german_adverbial(clause.adverbial)
    after = []
    # The dative precedes the accusative. An object's relative clause follows the closing verb: before it, the clause
    # would separate the verb or its prefix from the rest of the sentence.
    cases = VERBS[clause.verb].cases
    for case in sorted(cases, reverse=True):
        phrase = clause.objects[cases.index(case)]
        if phrase is not GAP:
            middle += _german_noun_phrase(phrase, case)
            after += _relative_clause(phrase)
    if verb_final:
        verbs = ["".join([*closing, finite])] if clause.tense == "present" else [*closing, finite]
        return [*subject, *middle, *verbs, *after]
    opening = _german_adverbial(clause.adverbial) if clause.fronted else opening
    start = [*opening, finite, *subject] if opening else [*subject, finite]
    return [*start, *middle, *closing, *after]


class _Sampler:
    """Samples one sentence, without repeating a noun, adjective or verb while unused ones are left."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.used: list[str] = []

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def fresh(self, words: Iterable[str]) -> str:
        words = list(words)
        word = self.rng.choice([word for word in words if word not in self.used] or words)
        self.used.append(word)
        return word

    def sentence(self) -> Sentence:
        if self.chance(0.45):
            clause = self.clause(TRANSITIVE, self.rng.choice(TENSES), richness=0.5)
            return Sentence(self.with_adverbial(clause, 0.5, may_front=True))
        conjunction = self.rng.choice(["that", "that", *SUBORDINATORS, *COORDINATORS])
        reported, coordinated = conjunction == "that", conjunction in COORDINATORS
        second_first = not reported and not coordinated and self.chance(0.4)
        # "If" with the past is a conditional, which the German perfect does not express.
        banned = {"if": ("past",), "that": tuple(MODALS)}.get(conjunction, ())
        tense = self.rng.choice([tense for tense in TENSES if tense not in banned])
        if coordinated or (reported and tense != "past"):
            second_tense = self.rng.choice(TENSES)
        else:
            second_tense = self.rng.choice(["past"] if tense == "past" else ["present", "can", "must"])
        # Only the last clause may lack an object, so that every sentence has roles that could be exchanged.
        main = self.clause(
            REPORTING_VERBS if reported else PLAIN_VERBS if second_first else TRANSITIVE, tense, richness=0.15
        )
        second = self.clause(TRANSITIVE if reported or second_first else PLAIN_VERBS, second_tense, richness=0.15)
        if not reported:
            main = self.with_adverbial(main, 0.2, may_front=not second_first)
        second = self.with_adverbial(second, 0.2, may_front=coordinated)
        return Sentence(main, conjunction, second, second_first)

    def with_adverbial(self, clause: Clause, probability: float, may_front: bool) -> Clause:
        # After a relative clause, an English adverbial would seem to belong to that clause.
        may_close = not any(isinstance(phrase.modifier, Clause) for phrase in clause.objects)
        if not self.chance(probability) or not (may_front or may_close):
            return clause
        if may_front and self.chance(0.3):
            place = PrepositionalPhrase(self.rng.choice(LOCATIVES), self.noun_phrase("place"))
            return replace(clause, adverbial=place, fronted=True)
        adverb = self.rng.choice([word for word in ADVERBS if clause.tense in ADVERBS[word][1]])
        return replace(clause, adverbial=adverb, fronted=may_front and (not may_close or self.chance(0.6)))

    def clause(self, verbs: Iterable[str], tense: str, richness: float) -> Clause:
        name = self.fresh(verbs)
        subject = self.modified(self.noun_phrase(VERBS[name].agent), richness)
        return Clause(subject, name, self.objects(VERBS[name], richness), tense)

    def objects(self, verb: Verb, richness: float) -> tuple[NounPhrase, ...]:
        # A name after a dative would read as an apposition: "der Tante Anna".
        phrases = [
            self.noun_phrase(kind, may_be_name=verb.cases == (ACCUSATIVE,) or verb.cases[number] == DATIVE)
            for number, kind in enumerate(verb.patients)
        ]
        if len(phrases) == 1 and self.chance(0.06):
            phrases = [replace(phrases[0], determiner="no")]
        if len(phrases) == 2:
            # A definite accusative tends to precede an indefinite dative, so the dative is made definite.
            dative = verb.cases.index(DATIVE)
            phrases[dative] = replace(phrases[dative], determiner="the")
        if verb.cases and verb.cases != (ACCUSATIVE, DATIVE):
            phrases[-1] = self.modified(phrases[-1], richness)
        return tuple(phrases)

    def noun_phrase(self, kind: str, may_be_name: bool = True) -> NounPhrase:
        if may_be_name and kind in ("person", "living") and self.chance(0.06):
            return NounPhrase(self.fresh(NAMES))
        noun, plural = self.fresh(CLASSES[kind]), kind != "place" and self.chance(0.25)
        determiner = self.rng.choice(PLURAL if plural else SINGULAR)
        adjectives = [self.fresh(SIZES)] if self.chance(0.15) else []
        if not determiner or self.chance(0.5):
            adjectives.append(self.fresh(QUALITIES.get(kind, QUALITIES["living"])))
        return NounPhrase(noun, determiner, tuple(adjectives), plural)

    def modified(self, phrase: NounPhrase, probability: float) -> NounPhrase:
        if phrase.noun in NAMES or not self.chance(probability):
            return phrase
        if self.chance(0.55):
            return replace(phrase, modifier=self.relative_clause(phrase))
        if phrase.noun in CLASSES["thing"]:
            preposition, kind = self.rng.choice([("for", "person"), ("in", "place"), ("behind", "place")])
        else:
            preposition = self.rng.choice([*LOCATIVES, "with", "without"])
            kind = {"in": "place", "without": "thing"}.get(preposition, "living")
        complement = self.noun_phrase(kind)
        if preposition == "without" and complement.determiner == "every":
            complement = replace(complement, determiner="the")  # "ohne jeden" means "without any"
        return replace(phrase, modifier=PrepositionalPhrase(preposition, complement))

    def relative_clause(self, head: NounPhrase) -> Clause:
        noun, tense, thing = head.noun, self.rng.choice(TENSES), head.noun in CLASSES["thing"]
        if not thing and self.chance(0.6):
            name = self.fresh(name for name, verb in PLAIN_VERBS.items() if noun in CLASSES[verb.agent])
            return Clause(GAP, name, self.objects(VERBS[name], richness=0.0), tense)
        # "die Frau, die die Katze sieht" is ambiguous, so the relative pronoun for a living object must differ from
        # that for a subject.
        forms = RELATIVE[_gender(head)]
        name = self.fresh(
            name
            for name, verb in PLAIN_VERBS.items()
            if len(verb.cases) == 1
            and noun in CLASSES[verb.patients[0]]
            and (thing or forms[verb.cases[0]] != forms[NOMINATIVE])
        )
        return Clause(self.noun_phrase(VERBS[name].agent), name, (GAP,), tense)


def make_pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """Return `count` (English, German) pairs. No sentence of either language occurs twice.

    A shorter list is the beginning of a longer one with the same seed.

    Raises:
        ValueError: `count` is not between 1 and LIMIT
    """
    if not 1 <= count <= LIMIT:
        raise ValueError(f"cannot generate {count} distinct pairs: specify 1 to {LIMIT}")
    rng = random.Random(seed)
    pairs, seen = [], set()
    while len(pairs) < count:
        sentence = _Sampler(rng).sentence()
        pair = english(sentence), german(sentence)
        if SHORTEST <= len(pair[0].split()) <= LONGEST and seen.isdisjoint(pair):
            seen.update(pair)
            pairs.append(pair)
    return pairs


def write_corpus(directory: str, splits: dict[str, list[tuple[str, str]]]) -> None:
    """Write DIRECTORY/NAME.en and DIRECTORY/NAME.de for each split. If interrupted, at least one is missing.

    Raises:
        OSError: a file cannot be written; or one of these names is a link, a directory or a device
    """
    texts = {
        f"{name}.{language}": [pair[side] + "\n" for pair in pairs]
        for name, pairs in splits.items()
        for side, language in enumerate(("en", "de"))
    }
    os.makedirs(directory, exist_ok=True)
    paths = {name: os.path.join(directory, name) for name in texts}
    for path in paths.values():
        if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            raise FileExistsError(f"{path} is not a regular file: remove it, or choose another directory")
    # A name of its own: two runs may write to the same directory.
    with tempfile.TemporaryDirectory(suffix=".part", dir=directory) as temporary:
        for name, lines in texts.items():
            with open(os.path.join(temporary, name), "w", encoding="utf-8", newline="\n") as file:
                file.writelines(lines)
        # Remove older files first: a run killed while renaming must not leave a mixture of two corpora.
        for path in paths.values():
            if os.path.exists(path):
                os.remove(path)
        for name, path in paths.items():
            os.replace(os.path.join(temporary, name), path)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = _Parser(
        description="Generate a synthetic English-German parallel corpus from a grammar, and write it to "
        "OUT_DIR/{train,valid,test}.{en,de}: raw text, one sentence per line."
    )
    parser.add_argument("out_dir", metavar="OUT_DIR", help="output directory, created if it does not exist")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same bytes (default: 1)")
    for name, count in (("train", 24000), ("valid", 500), ("test", 500)):
        parser.add_argument(
            f"--{name}", type=int, default=count, metavar="PAIRS", help=f"pairs in the {name} set (default: {count})"
        )
    options = parser.parse_args(arguments)
    # The test and validation sets are drawn first, so they do not depend on the size of the training set.
    counts = {name: getattr(options, name) for name in ("test", "valid", "train")}
    for name, count in counts.items():
        if count < 1:
            parser.error(f"--{name} must be at least 1, not {count}")
    if os.path.exists(options.out_dir) and not os.path.isdir(options.out_dir):
        parser.error(f"{options.out_dir} is not a directory")
    try:
        pairs = iter(make_pairs(sum(counts.values()), options.seed))
        splits = {name: [next(pairs) for _ in range(count)] for name, count in counts.items()}
        write_corpus(options.out_dir, splits)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    sizes = f"{options.train} train, {options.valid} valid and {options.test} test pairs"
    print(f"wrote {sizes} to {options.out_dir}")


if __name__ == "__main__":
    main()
