"""Names in pictures: none covers another, all are inside the plot, and the same points give the same places."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from export.measure.drawing import Name, as_svg, inline, place_names


def drawn(names: list[Name], *, width: float = 7.2) -> tuple[Figure, list[Bbox]]:
    figure = Figure(figsize=(width, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xscale="log", xlim=(0.05, 30), ylim=(0.7, 0.9))
    axes.scatter([name.x for name in names], [name.y for name in names])
    texts = place_names(axes, names)
    assert [text.get_text() for text in texts] == [name.text for name in names]
    # The box of the letters alone: that of an annotation includes its line.
    return figure, [Bbox(extent_of(text)) for text in texts]


def extent_of(text: Text) -> np.ndarray:
    return Text.get_window_extent(text).get_points()


@pytest.mark.parametrize("width", [3.6, 7.2])
def test_names_of_points_in_one_place_do_not_overlap(width: float) -> None:
    names = [Name(f"narrow/int{number}", 1.0 + 0.01 * number, 0.8, interval=(0.78, 0.82)) for number in range(8)]
    figure, boxes = drawn(names, width=width)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    frame = figure.axes[0].get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


def test_a_lone_name_touches_its_point_without_a_line() -> None:
    figure, (box,) = drawn([Name("teacher", 1.0, 0.8)])
    x, y = figure.axes[0].transData.transform((1.0, 0.8))
    assert not box.contains(x, y)
    (text,) = figure.axes[0].texts
    assert not text.arrow_patch.get_visible()  # type: ignore[attr-defined]


def test_names_are_nearer_to_their_own_point_than_to_another() -> None:
    names = [Name(f"student {place}", x, 0.8, interval=(0.76, 0.84)) for place, x in enumerate((0.7, 1.0, 1.4, 2.0))]
    figure, boxes = drawn(names)
    points = figure.axes[0].transData.transform([(name.x, name.y) for name in names])
    for index, box in enumerate(boxes):
        gaps = [np.hypot(*(np.clip(point, box.min, box.max) - point)) for point in points]
        assert int(np.argmin(gaps)) == index


def test_a_name_makes_room_for_what_should_stay_free() -> None:
    _, (free,) = drawn([Name("teacher", 1.0, 0.8)])
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xscale="log", xlim=(0.05, 30), ylim=(0.7, 0.9))
    (text,) = place_names(axes, [Name("teacher", 1.0, 0.8)], avoid=[free])
    assert not Bbox(extent_of(text)).overlaps(free)


def test_a_bold_name_is_placed_first() -> None:
    names = [Name(f"student {number}", 1.0, 0.8, bold=number == 7) for number in range(8)]
    figure, _ = drawn(names)
    led = [text.get_text() for text in figure.axes[0].texts if text.arrow_patch.get_visible()]  # type: ignore[attr-defined]
    assert len(led) > 1
    assert figure.axes[0].texts[0].get_text() == "student 7"
    assert "student 7" not in led


def test_the_same_points_give_the_same_bytes() -> None:
    names = [Name("a", 1.0, 0.8), Name("b", 1.01, 0.8)]
    assert as_svg(drawn(names)[0]) == as_svg(drawn(names)[0])


def test_ids_of_two_pictures_of_one_page_differ_and_greys_take_the_pages_colour() -> None:
    wide, narrow = (as_svg(drawn([Name("a", 1.0, 0.8)])[0], prefix=prefix) for prefix in ("wide-", "narrow-"))
    assert 'id="wide-axes_1"' in wide
    assert 'id="wide-' not in narrow
    picture = inline(wide, words="one point")
    assert 'aria-label="one point"' in picture
    assert "currentColor" in picture
    assert "#6b7280" not in picture
