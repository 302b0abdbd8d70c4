import pytest

from chexscore.errors import TableError
from chexscore.evaluation.joining import join


def test_paths_join_by_ending_whichever_side_is_longer() -> None:
    assert join(["/data/images/a.png", "b.png", "./c.png"], ["b.png", "images/a.png", "x/y/c.png"]) == [
        1,
        0,
        2,
    ]
    assert join(["data/a.png"], ["data\\a.png"]) == [0]
    assert join(["data/a b.png"], [" data/a b.png "]) == [0]


def test_only_whole_names_are_compared() -> None:
    assert join(["data/ba.png"], ["a.png"]) == [None]


def test_the_same_path_wins_over_an_ending_and_a_longer_ending_over_a_shorter() -> None:
    assert join(["x/a.png", "a.png"], ["a.png", "x/a.png"]) == [1, 0]
    assert join(["data/x/a.png", "data/a.png"], ["a.png", "x/a.png"]) == [1, 0]
    assert join(["old/a.png", "a.png"], ["a.png"]) == [None, 0]
    assert join(["a.png"], ["a.png", "old/a.png"]) == [0]
    assert join(["/d/old/a.png", "old/a.png"], ["/d/old/a.png"]) == [0, None]
    assert join(["x/a.png", "y/x/a.png"], ["a.png", "x/a.png"]) == [1, None]


@pytest.mark.parametrize(
    ("predicted", "labelled"),
    [
        (["one/a.png", "two/a.png"], ["a.png"]),
        (["a.png"], ["one/a.png", "two/a.png"]),
        (["a.png", "one/a.png"], ["one/a.png", "two/a.png"]),
        (["one/a.png", "a.png"], ["one/a.png", "two/one/a.png"]),
    ],
)
def test_an_ambiguous_join_is_refused_with_the_names(predicted: list[str], labelled: list[str]) -> None:
    with pytest.raises(TableError) as caught:
        join(predicted, labelled, predictions="k.csv", labels="l.csv")
    for path in {*predicted, *labelled, "in k.csv", "l.csv: "}:
        assert path in str(caught.value)


def test_many_images_of_one_name_join_by_their_folders() -> None:
    """CheXpert calls nearly every image view1_frontal.jpg."""
    names = [f"patient{i:05}/study1/view1_frontal.jpg" for i in range(5000)]
    assert join([f"/data/train/{name}" for name in names], names) == list(range(5000))


def test_a_path_that_is_there_twice_is_refused_even_if_nothing_else_knows_it() -> None:
    with pytest.raises(TableError, match=r"a\.png is labelled twice; keep one of its lines"):
        join(["b.png"], ["a.png", "b.png", "./a.png"])
    with pytest.raises(TableError, match=r"x/a\.png is predicted twice; keep one of its rows"):
        join(["x/a.png", "x/a.png"], ["b.png"])
    with pytest.raises(TableError, match=r"^l\.csv: lines 3 and 9: a\.png is labelled twice"):
        join([], ["a.png", "b.png", "a.png", "a.png"], labels="l.csv", lines=[3, 5, 9, 11])
    with pytest.raises(TableError, match=r"^k\.csv: a\.png is predicted twice"):
        join(["b.png", "a.png", "a.png"], [], predictions="k.csv")


def test_letters_with_marks_are_the_same_however_they_are_written() -> None:
    assert join(["data/M\u00fcller.png"], ["data/Mu\u0308ller.png"]) == [0]
    twins = ["M\u00fcller.png", "Mu\u0308ller.png"]
    assert join(twins, twins) == [0, 1]
    assert join(twins, twins[1:]) == [None, 0]
    assert join(twins[1:], twins) == [1]
    assert join([f"/d/{name}" for name in twins], twins[1:]) == [None, 0]
    assert join(twins[1:], [f"/d/{name}" for name in twins]) == [1]
