"""Groups of class and attribute values: real images and edits in the same ones, drawn about equally often."""

from engine.training.contents import ShardContents
from engine.training.groups import Groups, balanced_draws, balancing


def test_an_edit_of_an_attribute_is_in_the_group_of_its_new_value_and_another_has_its_own() -> None:
    groups = Groups([], {"light", "background"})
    source = groups.of_real("cat", {"light": "dim", "background": "grass", "camera": "a"})
    assert source == ("cat", "grass", "dim")
    assert Groups(["light"], {"light", "background"}).of_edit(("cat", "dim"), "background", "snow") == ("cat", "dim")
    assert groups.of_edit(source, "background", "snow") == ("cat", "snow", "dim")
    assert groups.of_edit(source, "weather", "fog") == ("cat", "grass", "dim", "weather: fog")
    assert Groups([]).of_edit(("cat",), "background", "snow") == ("cat", "background: snow")


def test_each_turn_of_an_edit_changes_its_group() -> None:
    groups = Groups([], {"light", "background"})
    assert groups.of_edit(("cat", "grass", "dim"), "background+light", "snow + bright") == ("cat", "snow", "bright")
    assert groups.of_edit(("cat", "grass", "dim"), "weather+light", "fog + bright") == (
        "cat", "grass", "bright", "weather: fog",
    )  # fmt: skip


def test_groups_are_numbered_alike_in_any_order_and_keep_their_number_when_more_come() -> None:
    real = [("cat", "grass"), ("dog", "snow"), ("cat", "snow")]
    one, other = Groups([], ["background"]), Groups([], ["background"])
    one.add_real(real)
    other.add_real(reversed(real))
    for groups in (one, other):
        groups.add_edits([("cat", "background", "sand")])
        assert len(groups) == 4
        groups.add_edits([("dog", "weather", "fog"), ("cat", "background", "sand")])
    every = [*real, ("cat", "sand"), ("dog", "snow", "weather: fog")]
    assert [one.number(group) for group in every] == [other.number(group) for group in every] == [0, 2, 1, 3, 4]


def test_groups_come_about_equally_often() -> None:
    assert balancing([100, 50, 3, 0]) == [1, 2, 33, 0]
    cells = {("cat", "background", "snow"): 40, ("cat", "background", "sand"): 10, ("dog", "light", "dim"): 1}
    contents = [ShardContents(shard=0, cells=cells, validation=0)]
    draws = dict.fromkeys(cells, 1) | {("cat", "background", "sand"): 3, ("dog", "light", "dark"): 0}
    # One edit is drawn at most 20 times as often.
    assert list(balanced_draws(draws, contents).values()) == [1, 12, 20, 0]
