"""Words of classes: inflections, labels of the taxonomy, mentions in captions, and files that are refused."""

from pathlib import Path

import pytest

from egovlpv2.data_modules.word_forms import ClassWords, forms_of, inflect_noun, inflect_verb, read_taxonomy


@pytest.mark.parametrize(("verb", "spellings"), [
    ("pick", "pick picks picking picked"), ("cut", "cut cuts cutting cutted"), ("wash", "wash washes washing washed"),
    ("slice", "slice slices slicing sliced"), ("carry", "carry carries carrying carried"),
    ("play", "play plays playing played"), ("mix", "mix mixes mixing mixed"), ("open", "open opens opening opened"),
    ("tie", "tie ties tying tied"), ("see", "see sees seeing seed"), ("go", "go goes going goed"),
])
def test_verbs_are_spelled_by_rule(verb: str, spellings: str) -> None:
    assert inflect_verb(verb) == tuple(spellings.split())


def test_of_several_words_one_is_inflected() -> None:
    assert inflect_verb("pick up") == ("pick up", "picks up", "picking up", "picked up")
    assert inflect_noun("frying pan") == ("frying pan", "frying pans")
    assert [inflect_noun(noun)[1] for noun in ("cup", "brush", "battery", "key")] == [
        "cups", "brushes", "batteries", "keys"]


@pytest.mark.parametrize(("label", "forms"), [
    ("take_(pick,_grab,_get)", ["take", "pick", "grab", "get"]), ("carry", ["carry"]), ("", []), ("  ", []),
    ("turn_on_(switch_on,_start,_light)", ["turn on", "switch on", "start", "light"]),
    ("sew_(weave,_stitch,_sew)", ["sew", "weave", "stitch"]), ("(a,_b)", ["a", "b"]), ("broken_(a", []),
    ("Nut_(food)", ["nut", "food"]),
])
def test_labels_name_their_words(label: str, forms: list[str]) -> None:
    assert forms_of(label) == forms


def test_the_first_and_longest_mention_is_found() -> None:
    words = ClassWords(["pick", "pick up", "take"], inflect_verb)
    found = words.find("#C C Picks up the cup and takes it")
    assert found is not None and (found.begin, found.end, found.inflection) == (5, 13, 1)
    assert words.find("#C C picked the cup").inflection == 3
    assert words.find("#C C holds the toothpick") is None  # not a part of another word
    assert ClassWords([], inflect_verb).find("#C C picks up the cup") is None


def test_a_taxonomy_is_read_by_its_labels(tmp_path: Path) -> None:
    path = tmp_path / "verbs.csv"
    path.write_text('label,group\n"take_(pick,_grab)","[\'take\', \'pick\']"\n"",[]\ncut,[]\n')
    classes = read_taxonomy(path, inflect_verb, 118)
    assert [[form[0] for form in words.forms] for words in classes] == [["take", "pick", "grab"], [], ["cut"]]


@pytest.mark.parametrize(("content", "message"), [
    ("verb\ntake\n", "has no column label"), ("label\n", "has no rows"), ('label,group\n"",x\n', "no class has a word"),
    ("label\n" + "take\n" * 119, "has 119 classes and tags are ids below 118"),
])
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "verbs.csv").write_text(content)
    with pytest.raises(ValueError, match=f"verbs.csv.*{message}"):
        read_taxonomy(tmp_path / "verbs.csv", inflect_verb, 118)
    with pytest.raises(ValueError, match="missing.csv"):
        read_taxonomy(tmp_path / "missing.csv", inflect_verb, 118)
