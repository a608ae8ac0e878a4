"""What made a shard: the versions and the kinds of machines that its marker names."""

from engine.shards.marker import describe_change, made_on


def test_each_kind_of_machine_is_named_once() -> None:
    assert made_on({"torch": "2.13"}, ()) == {"torch": "2.13"}
    first = made_on({"torch": "2.13"}, {"NVIDIA H200", "AMD EPYC (avx2)"})
    assert first == {"torch": "2.13", "machine": "AMD EPYC (avx2) + NVIDIA H200"}
    assert made_on(first, {"NVIDIA H200"}) == first


def test_a_change_names_what_is_now_and_what_was_before() -> None:
    before = {"torch": "2.13", "machine": "NVIDIA H200"}
    assert describe_change(before, before) is None
    assert (
        describe_change(before, {"torch": "2.14", "machine": "A"}) == "torch 2.14, not 2.13, machine A, not NVIDIA H200"
    )
    assert describe_change({"torch": "2.13"}, before) is None
    assert describe_change(before, {"torch": "2.13"}) is None
