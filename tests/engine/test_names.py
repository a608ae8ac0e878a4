import unicodedata

import pytest

from engine.names import class_words, count_named, count_phrase, find_class, names_class, plain


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sneaker", ("sneaker",)),
        ("t_shirt", ("t shirt",)),
        ("T-shirt/top", ("t-shirt", "top")),
        ("GoldenRetriever", ("golden retriever",)),
        ("TShirt", ("t shirt",)),
        ("tench, Tinca tinca", ("tench", "tinca tinca")),
        ("crane (bird)", ("crane",)),
        ("001.Black_footed_Albatross", ("black footed albatross", "001.black footed albatross")),
        ("n02085620-Chihuahua", ("chihuahua", "n02085620-chihuahua")),
        ("n01440764", ()),
        ("a", ()),
        ("7", ("7",)),
    ],
)
def test_the_words_of_a_class_name(name: str, words: tuple[str, ...]) -> None:
    assert class_words(name) == words


def test_words_that_are_given_for_a_class_take_the_place_of_its_name() -> None:
    given = {"n01440764": ("tench", "Tinca tinca"), "7": ("sneaker",)}
    assert class_words("n01440764", given) == ("tench", "Tinca tinca")
    captions = [
        ("a tench in a hand", "n01440764"),
        ("a red fish", "n01440764"),
        ("two sneakers", "7"),
        ("a cat", "cat"),
    ]
    assert count_named(captions, given) == 3


@pytest.mark.parametrize(
    ("caption", "name", "found"),
    [
        ("a red sneaker on grass", "sneakers", ["sneaker"]),
        ("red sneakers, one sneaker", "sneaker", ["sneakers", "sneaker"]),
        ("a red t-shirt", "t_shirt", ["t-shirt"]),
        ("a red tshirt", "T-shirt/top", ["tshirt"]),
        ("a red t-shirt", "tshirt", ["t-shirt"]),
        ("a golden retriever", "GoldenRetriever", ["golden retriever"]),
        ("a Golden-Retriever", "goldenretriever", ["golden-retriever"]),
        ("a tench, Tinca tinca", "tench, Tinca tinca", ["tench", "tinca tinca"]),
        ("a jack-o\u2019-lantern", "jack_o'_lantern", ["jack-o'-lantern"]),
        ("the men's shoe", "mens shoes", ["men's shoe"]),
        ("a cat's tail", "cat", ["cat's"]),
        # Not a class's word, but letters of it.
        ("that", "hat", []),
        ("a concatenation of scars", "cat", []),
        ("a t-shirt on top", "a", []),
        ("a fish in a hand", "n01440764", []),
        ("a sneaker", "", []),
    ],
)
def test_a_class_is_found_as_people_write_it(caption: str, name: str, found: list[str]) -> None:
    assert find_class(caption, class_words(name)) == found


@pytest.mark.parametrize(
    ("one", "many"),
    [
        *(
            ("sneaker", "sneakers"),
            ("dress", "dresses"),
            ("box", "boxes"),
            ("puppy", "puppies"),
            ("potato", "potatoes"),
        ),
        *(("mouse", "mice"), ("knife", "knives"), ("goose", "geese"), ("child", "children"), ("foot", "feet")),
        *(("leaf", "leaves"), ("wolf", "wolves"), ("fireman", "firemen"), ("person", "people"), ("cactus", "cacti")),
        *(
            ("shoe", "shoes"),
            ("bus", "buses"),
            ("loaf", "loaves"),
            ("tooth", "teeth"),
            ("matrix", "matrices"),
            ("caf\u00e9", "caf\u00e9s"),
        ),
    ],
)
def test_a_noun_is_found_in_the_singular_and_in_the_plural(one: str, many: str) -> None:
    assert find_class(f"the {many} on a shelf", [one]) == [many]
    assert find_class(f"the {one} on a shelf", [many]) == [one]


def test_short_is_no_shorts() -> None:
    assert not names_class("a man with short hair", ["shorts"])


@pytest.mark.parametrize(
    ("caption", "word", "found"),
    [
        ("草地上的红色运动鞋", "运动鞋", "运动鞋"),
        ("芝の上の赤いスニーカー", "スニーカー", "スニーカー"),
        ("芝の上の赤いｽﾆｰｶｰ", "スニーカー", "スニーカー"),
        ("รองเท้าสีแดงบนหญ้า", "รองเท้า", "รองเท้า"),
        ("빨간 운동화를 신은 사람", "운동화", "운동화"),
        ("фото рыжую кошку на траве", "кошка", "кошку"),
        ("немецкую овчарку на снегу", "Немецкая овчарка", "немецкую овчарку"),
        ("الكلب على العشب", "كلب", "الكلب"),
        ("הכלב על הדשא", "כלב", "הכלב"),
        ("लाल कुत्ता घास पर", "कुत्ता", "कुत्ता"),
        ("ein Schäferhund auf einer Wiese", "Hund", "schäferhund"),
        ("a photo of İSTANBUL", "istanbul", "istanbul"),
        ("a red CAFE\u0301", "caf\u00e9", "caf\u00e9"),
    ],
)
def test_a_class_is_found_in_other_scripts(caption: str, word: str, found: str) -> None:
    assert find_class(caption, [word]) == [found]
    assert find_class(unicodedata.normalize("NFD", caption), [unicodedata.normalize("NFD", word)]) == [found]


def test_a_letter_with_its_mark_is_another_letter() -> None:
    assert not names_class("लाल कुत्ताघर", ["कुत्ता"])
    assert not names_class("कुत्ते", ["कुत्त"])


def test_compounds_name_a_class_only_where_its_word_does_not_stand_by_itself() -> None:
    assert find_class("a dog beside a sheepdog", ["dog"]) == ["dog"]
    assert find_class("a red sweatshirt", ["shirt"]) == ["sweatshirt"]
    assert find_class("a red handbag", ["bag"]) == []  # of three letters: so end many words
    assert find_class("a woman wearing gold, walking", ["ring", "king"]) == []


@pytest.mark.parametrize(
    ("phrase", "text", "count"),
    [
        ("草地", "草地上的红色运动鞋", 1),
        ("หญ้า", "รองเท้าสีแดงบนหญ้า", 1),
        ("芝の上", "赤いスニーカーが芝の上にある", 1),
        ("잔디", "잔디에 있는 운동화", 1),
        ("Strand", "ein Schuh am Sandstrand", 1),
        ("Stein", "ein Schuh auf Steinboden", 1),
        ("İstanbul", "a street in ISTANBUL", 1),
        ("child\u2019s bed", "on the child's bed", 1),
        ("cafe\u0301", "in a caf\u00e9", 1),
        ("sandy\u00a0beach", "on a sandy beach", 1),
        ("gra", "on grass", 0),
        ("sand", "a red sandal", 0),
        ("grass", "grass on grass", 2),
    ],
)
def test_a_phrase_is_counted_by_the_borders_of_its_script(phrase: str, text: str, count: int) -> None:
    assert count_phrase(plain(phrase), plain(text)) == count
