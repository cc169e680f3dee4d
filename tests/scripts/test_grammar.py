"""The synthetic English-German corpus of examples/grammar: correct translations, reproducible and disjoint splits."""

import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from support.paths import ROOT, load_script

EXAMPLE = ROOT / "examples" / "grammar"
SCRIPT = EXAMPLE / "make_corpus.py"
corpus = load_script(SCRIPT)

NP, PP, Clause, Sentence, GAP = (
    corpus.NounPhrase,
    corpus.PrepositionalPhrase,
    corpus.Clause,
    corpus.Sentence,
    corpus.GAP,
)


def plural(noun, determiner="the", *adjectives):
    return NP(noun, determiner, adjectives, plural=True)


def words(text):
    return re.findall(r"\w+", text)


def simple(subject, verb, *objects, **rest):
    return Sentence(Clause(subject, verb, objects, **rest))


TEACHER, DOG, WOMAN, CHILD, BOY = NP("teacher"), NP("dog"), NP("woman"), NP("child"), NP("boy")
SEES_DOG = Clause(TEACHER, "see", (DOG,))
WOMAN_LAUGHS = Clause(WOMAN, "laugh")

# fmt: off
PHENOMENA = {
    "gender and accusative": (
        simple(NP("woman", "the", ("old",)), "see", NP("dog", "the", ("small",))),
        "The old woman sees the small dog.", "Die alte Frau sieht den kleinen Hund."),
    "mixed declension": (
        simple(NP("uncle", "a", ("old",)), "hear", NP("horse", "a", ("tired",))),
        "An old uncle hears a tired horse.", "Ein alter Onkel hört ein müdes Pferd."),
    "strong declension": (
        simple(plural("teacher", "", "clever"), "help", plural("child", "two", "sad")),
        "Clever teachers help two sad children.", "Kluge Lehrer helfen zwei traurigen Kindern."),
    "dative verb and weak noun": (
        simple(NP("waitress", "my"), "thank", NP("neighbour", "our", ("friendly",))),
        "My waitress thanks our friendly neighbour.", "Meine Kellnerin dankt unserem freundlichen Nachbarn."),
    "weak noun in the accusative": (
        simple(NP("bear", "this"), "find", NP("lion", "every")),
        "This bear finds every lion.", "Dieser Bär findet jeden Löwen."),
    "negation": (
        simple(CHILD, "watch", plural("cat", "no", "big")),
        "The child watches no big cats.", "Das Kind beobachtet keine großen Katzen."),
    "demonstrative plural": (
        simple(plural("boy", "this", "brave"), "look for", plural("goat", "this")),
        "These brave boys look for these goats.", "Diese mutigen Jungen suchen diese Ziegen."),
    "two adjectives": (
        simple(NP("Anna"), "phone", NP("man", "a", ("small", "sad"))),
        "Anna phones a small sad man.", "Anna ruft einen kleinen traurigen Mann an."),
    "ditransitive": (
        simple(TEACHER, "give", WOMAN, NP("suitcase", "a", ("heavy",))),
        "The teacher gives the woman a heavy suitcase.", "Der Lehrer gibt der Frau einen schweren Koffer."),
    "ditransitive of exchangeable objects": (
        simple(TEACHER, "show", NP("girl"), NP("boy")),
        "The teacher shows the girl the boy.", "Der Lehrer zeigt dem Mädchen den Jungen."),
    "objects that change places": (
        simple(NP("king"), "introduce", NP("doctor"), NP("queen")),
        "The king introduces the doctor to the queen.", "Der König stellt der Königin den Arzt vor."),
    "verb second after an adverb": (
        simple(TEACHER, "see", DOG, adverbial="today", fronted=True),
        "Today the teacher sees the dog.", "Heute sieht der Lehrer den Hund."),
    "adverb between verb and object": (
        simple(TEACHER, "see", DOG, adverbial="on Monday", tense="will"),
        "The teacher will see the dog on Monday.", "Der Lehrer wird am Montag den Hund sehen."),
    "verb second after a place": (
        simple(TEACHER, "help", DOG, adverbial=PP("in", NP("forest", "the", ("old",))), fronted=True),
        "In the old forest the teacher helps the dog.", "Im alten Wald hilft der Lehrer dem Hund."),
    "prepositions with the dative": (
        simple(NP("man", modifier=PP("with", plural("bag", "the", "red"))), "see",
               NP("cat", modifier=PP("behind", NP("house", "a")))),
        "The man with the red bags sees the cat behind a house.",
        "Der Mann mit den roten Taschen sieht die Katze hinter einem Haus."),
    "prepositions with the accusative": (
        simple(NP("boy", modifier=PP("without", NP("backpack", "a"))), "buy",
               NP("book", modifier=PP("for", NP("student")))),
        "The boy without a backpack buys the book for the student.",
        "Der Junge ohne einen Rucksack kauft das Buch für den Studenten."),
    "modal verb": (
        simple(plural("student"), "visit", plural("king"), tense="want to"),
        "The students want to visit the kings.", "Die Studenten wollen die Könige besuchen."),
    "modal verb with a separable verb": (
        simple(CHILD, "open", NP("letter"), tense="must"),
        "The child must open the letter.", "Das Kind muss den Brief aufmachen."),
    "perfect with haben": (
        simple(BOY, "help", plural("woman"), tense="past"),
        "The boy helped the women.", "Der Junge hat den Frauen geholfen."),
    "perfect with sein": (
        simple(plural("mouse"), "follow", NP("cat"), tense="past", adverbial="yesterday", fronted=True),
        "Yesterday the mice followed the cat.", "Gestern sind die Mäuse der Katze gefolgt."),
    "separable verb in the present": (
        simple(plural("man"), "open", NP("box")),
        "The men open the box.", "Die Männer machen die Kiste auf."),
    "separable verb in the perfect": (
        simple(WOMAN, "open", NP("bottle"), tense="past"),
        "The woman opened the bottle.", "Die Frau hat die Flasche aufgemacht."),
    "separable verb in a subordinate clause": (
        Sentence(SEES_DOG, "because", Clause(WOMAN, "open", (NP("parcel"),))),
        "The teacher sees the dog because the woman opens the parcel.",
        "Der Lehrer sieht den Hund, weil die Frau das Paket aufmacht."),
    "subordinate clause first": (
        Sentence(WOMAN_LAUGHS, "while", SEES_DOG, second_first=True),
        "While the teacher sees the dog, the woman laughs.",
        "Während der Lehrer den Hund sieht, lacht die Frau."),
    "modal verb in a subordinate clause": (
        Sentence(WOMAN_LAUGHS, "if", Clause(TEACHER, "see", (DOG,), "can")),
        "The woman laughs if the teacher can see the dog.",
        "Die Frau lacht, wenn der Lehrer den Hund sehen kann."),
    "perfect in a reported clause": (
        Sentence(Clause(NP("Peter"), "say", tense="past"), "that",
                 Clause(CHILD, "fall asleep", tense="past", adverbial="at night")),
        "Peter said that the child fell asleep at night.",
        "Peter hat gesagt, dass das Kind nachts eingeschlafen ist."),
    "coordination with but": (
        Sentence(SEES_DOG, "but", WOMAN_LAUGHS),
        "The teacher sees the dog, but the woman laughs.", "Der Lehrer sieht den Hund, aber die Frau lacht."),
    "coordination with and after a relative clause": (
        Sentence(Clause(WOMAN, "see", (NP("dog", modifier=Clause(GAP, "sleep")),)), "and", WOMAN_LAUGHS),
        "The woman sees the dog which sleeps, and the woman laughs.",
        "Die Frau sieht den Hund, der schläft, und die Frau lacht."),
    "relative clause on the subject": (
        simple(NP("gardener", "the", ("old",), modifier=Clause(GAP, "sleep")), "see", DOG),
        "The old gardener who sleeps sees the dog.", "Der alte Gärtner, der schläft, sieht den Hund."),
    "relative pronoun in the accusative": (
        simple(NP("man", modifier=Clause(WOMAN, "visit", (GAP,))), "hear", DOG),
        "The man who the woman visits hears the dog.", "Der Mann, den die Frau besucht, hört den Hund."),
    "relative pronoun in the dative": (
        simple(NP("girl", modifier=Clause(BOY, "help", (GAP,))), "hear", DOG),
        "The girl who the boy helps hears the dog.", "Das Mädchen, dem der Junge hilft, hört den Hund."),
    "relative pronoun in the dative plural": (
        simple(DOG, "see", NP("bird", plural=True, modifier=Clause(NP("cat"), "follow", (GAP,), "past"))),
        "The dog sees the birds which the cat followed.",
        "Der Hund sieht die Vögel, denen die Katze gefolgt ist."),
    "relative clause after the closing verb": (
        simple(TEACHER, "invite", NP("woman", modifier=Clause(GAP, "listen to", (BOY,)))),
        "The teacher invites the woman who listens to the boy.",
        "Der Lehrer lädt die Frau ein, die dem Jungen zuhört."),
}
# fmt: on


@pytest.mark.parametrize("sentence, english, german", PHENOMENA.values(), ids=PHENOMENA.keys())
def test_translates_each_phenomenon_as_a_native_speaker_would(sentence, english, german):
    assert (corpus.english(sentence), corpus.german(sentence)) == (english, german)


@pytest.mark.parametrize(
    "determiner, noun, is_plural, forms",
    [
        ("the", "dog", False, "der alte Hund, den alten Hund, dem alten Hund"),
        ("the", "cat", False, "die alte Katze, die alte Katze, der alten Katze"),
        ("the", "horse", False, "das alte Pferd, das alte Pferd, dem alten Pferd"),
        ("the", "child", True, "die alten Kinder, die alten Kinder, den alten Kindern"),
        ("a", "boy", False, "ein alter Junge, einen alten Jungen, einem alten Jungen"),
        ("our", "cat", False, "unsere alte Katze, unsere alte Katze, unserer alten Katze"),
        ("my", "horse", False, "mein altes Pferd, mein altes Pferd, meinem alten Pferd"),
        ("no", "horse", True, "keine alten Pferde, keine alten Pferde, keinen alten Pferden"),
        ("this", "horse", False, "dieses alte Pferd, dieses alte Pferd, diesem alten Pferd"),
        ("every", "dog", False, "jeder alte Hund, jeden alten Hund, jedem alten Hund"),
        ("three", "woman", True, "drei alte Frauen, drei alte Frauen, drei alten Frauen"),
        ("", "suitcase", True, "alte Koffer, alte Koffer, alten Koffern"),
    ],
)
def test_declines_noun_phrases(determiner, noun, is_plural, forms):
    phrase = NP(noun, determiner, ("old",), is_plural)
    cases = corpus.NOMINATIVE, corpus.ACCUSATIVE, corpus.DATIVE
    assert ", ".join(" ".join(corpus._german_noun_phrase(phrase, case)) for case in cases) == forms


def test_only_the_order_of_english_words_says_who_does_what():
    old_dog, brave_bear = NP("dog", "the", ("old",)), NP("bear", "the", ("brave",))
    one, other = simple(old_dog, "see", brave_bear), simple(brave_bear, "see", old_dog)
    bags = [Counter(words(corpus.english(sentence).lower())) for sentence in (one, other)]
    assert bags[0] == bags[1]
    assert corpus.german(one) == "Der alte Hund sieht den mutigen Bären."
    assert corpus.german(other) == "Der mutige Bär sieht den alten Hund."


@pytest.fixture(scope="module")
def pairs():
    return corpus.make_pairs(20_000, seed=1)


def test_makes_twenty_thousand_pairs_distinct_on_both_sides(pairs):
    assert len({english for english, _ in pairs}) == len({german for _, german in pairs}) == 20_000


def test_sentences_are_cased_punctuated_and_of_moderate_length(pairs):
    for english, german in pairs:
        assert corpus.SHORTEST <= len(words(english)) <= corpus.LONGEST
        for text in (english, german):
            assert re.fullmatch(r"[A-ZÄÖÜ]\w*(,? \w+)+\.", text), text


def test_most_sentences_have_two_nouns_that_could_exchange_roles(pairs):
    living = {form for word in corpus.CLASSES["living"] for form in corpus.NOUNS[word][:2]} | {*corpus.NAMES}
    exchangeable = sum(sum(word in living for word in words(english)) > 1 for english, _ in pairs)
    assert exchangeable > 0.8 * len(pairs)


def test_every_german_word_comes_from_the_paradigms(pairs):
    cases = corpus.NOMINATIVE, corpus.ACCUSATIVE, corpus.DATIVE
    known = {*corpus.NAMES, "im", *corpus.AUXILIARIES, *corpus.AUXILIARIES.values()}
    known |= {*corpus.SUBORDINATORS.values(), *corpus.COORDINATORS.values()}
    known |= {preposition for preposition, _ in corpus.PREPOSITIONS.values()}
    known |= {word for german, _ in corpus.ADVERBS.values() for word in german.split()}
    known |= {form for forms in corpus.MODALS.values() for form in forms[2:]}
    known |= {form for forms in corpus.RELATIVE.values() for form in forms}
    known |= {
        corpus.decline_noun(noun, many, case)
        for noun in corpus.NOUNS.values()
        for many in (False, True)
        for case in cases
    }
    known |= {
        corpus.decline_determiner(determiner, gender, case)
        for determiner in corpus.DETERMINERS
        for gender in corpus.STRONG
        for case in cases
    }
    known |= {
        stem + ending
        for stem in corpus.ADJECTIVES.values()
        for endings in corpus.STRONG.values()
        for ending in ("e", *endings)
    }
    for verb in corpus.VERBS.values():
        known |= {form for form in (verb.infinitive, verb.german_third, verb.participle)}
        known |= {verb.prefix, *(verb.prefix + form for form in verb[5:8])}
    known |= {form[0].upper() + form[1:] for form in known if form}
    assert {word for _, german in pairs for word in words(german)} <= known


def test_a_shorter_list_begins_a_longer_one(pairs):
    assert corpus.make_pairs(100, seed=1) == pairs[:100]


def test_readme_shows_the_first_pairs_of_seed_1(pairs):
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    rows = [row.strip("| ") for row in text.splitlines() if re.match(r"\| .*\. \|$", row)]
    assert [tuple(row.split(" | ")) for row in rows] == pairs[:10]


def generate(directory, *arguments):
    command = [sys.executable, str(SCRIPT), str(directory), *arguments]
    # A fixed hash seed would hide an order that depends on a set.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")


SMALL = "--train", "300", "--valid", "20", "--test", "30"


def test_the_seed_alone_decides_the_bytes(tmp_path):
    for name, seed in (("one", "5"), ("two", "5"), ("other", "6")):
        assert generate(tmp_path / name, "--seed", seed, *SMALL).returncode == 0
    one, two, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two", "other")
    )
    assert one == two
    assert all(one[name] != other[name] for name in one)


def test_writes_line_aligned_disjoint_splits(tmp_path):
    result = generate(tmp_path / "new" / "corpus", *SMALL)
    assert result.stdout.count("\n") == 1 and not result.stderr
    sizes = {"train": 300, "valid": 20, "test": 30}
    assert {path.name for path in (tmp_path / "new" / "corpus").iterdir()} == {
        f"{name}.{language}" for name in sizes for language in ("en", "de")
    }
    for language in ("en", "de"):
        lines = []
        for name, size in sizes.items():
            content = (tmp_path / "new" / "corpus" / f"{name}.{language}").read_bytes()
            assert b"\r" not in content and content.endswith(b"\n")
            assert len(content.splitlines()) == size
            lines += content.decode("utf-8").splitlines()
        assert all(lines) and len(set(lines)) == len(lines)


def test_an_interrupted_run_over_an_older_corpus_is_visibly_incomplete(tmp_path, monkeypatch):
    corpus.main([str(tmp_path), *SMALL])
    rename, renamed = os.replace, []

    def interrupted(source, target):
        if len(renamed) == 2:
            raise OSError("interrupted")
        renamed.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(SystemExit):
        corpus.main([str(tmp_path), "--seed", "2", *SMALL])
    assert len([path for path in tmp_path.iterdir() if path.suffix in (".en", ".de")]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("--train", "0"),
        ("--valid", "-3"),
        ("--test", "many"),
        ("--train", "9" * 12),
        ("--unknown",),
    ],
)
def test_bad_arguments_give_one_line(tmp_path, arguments):
    result = generate(tmp_path / "corpus", *arguments)
    assert result.returncode != 0
    assert result.stderr.count("\n") == 1 and "error: " in result.stderr
    assert not (tmp_path / "corpus").exists()


def test_an_output_directory_that_is_a_file_gives_one_line(tmp_path):
    (tmp_path / "file").write_text("kept")
    result = generate(tmp_path / "file", *SMALL)
    assert result.returncode != 0 and result.stderr.count("\n") == 1 and "not a directory" in result.stderr
    assert (tmp_path / "file").read_text() == "kept"


def test_rejects_a_count_it_cannot_make():
    for count in (0, corpus.LIMIT + 1):
        with pytest.raises(ValueError, match="distinct pairs"):
            corpus.make_pairs(count, seed=1)


def test_links_and_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "train.en.part").write_text("theirs")
    corpus.main([str(tmp_path), *SMALL])
    assert (tmp_path / "train.en.part").read_text() == "theirs" and len(list(tmp_path.iterdir())) == 7
    (tmp_path / "test.de").unlink()
    (tmp_path / "test.de").symlink_to("train.en.part")
    with pytest.raises(SystemExit):
        corpus.main([str(tmp_path), *SMALL])
    assert (tmp_path / "train.en.part").read_text() == "theirs"
