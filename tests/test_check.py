"""The checker of exercises: what it says of a wrong answer has to help, and a right one must not be called wrong."""

from collections.abc import Callable
from typing import Any

from coreota.check import check


def said(answer: Callable[..., Any], solution: Callable[..., Any], *cases: tuple[Any, ...]) -> str:
    return check(answer, solution, *cases).difference


def test_a_wrong_answer_is_shown_beside_the_right_one() -> None:
    assert said(lambda n: n + 1, lambda n: 2 * n, (1,), (2,)) == "<lambda>(2) gave 3, not 4"
    assert said(lambda n: None, lambda n: n, (1,)) == "<lambda>(1) gave None, not 1; is a `return` missing?"
    assert said(lambda n: n if n > 1 else None, lambda n: n, (1,), (2,)) == "<lambda>(1) gave None, not 1"


def test_an_error_is_shown_with_its_message() -> None:
    assert said(lambda text: {}[text], len, ("a",)) == "<lambda>('a') raised KeyError('a'), and should give 1"
    assert said(len, int, ("a",)) == "len('a') gave 1, and should raise ValueError"
    assert said(lambda text: {}[text], int, ("a",)) == "<lambda>('a') raised KeyError('a'), not ValueError"


def test_the_same_error_is_right_whatever_its_message() -> None:
    assert check(lambda text: int(text + "!"), int, ("a",)).ok


def test_numbers_need_not_agree_in_the_last_digit() -> None:
    assert check(lambda: [0.1 + 0.2, (1, 0.3)], lambda: [0.3, (1, 0.1 + 0.2)], ()).ok
    assert not check(lambda: 0.300001, lambda: 0.3, ()).ok
    assert not check(lambda: "0.3", lambda: 0.3, ()).ok


def test_long_values_are_shown_where_they_part() -> None:
    difference = said(lambda: b"a" * 500 + b"b", lambda: b"a" * 501, ())
    assert "ab'" in difference and "(length 501)" in difference and len(difference) < 350


def test_an_answer_may_change_what_it_is_given() -> None:
    numbers = [3, 1, 2]
    assert check(lambda given: [given.sort(), given.pop()][1], max, (numbers,)).ok
    assert numbers == [3, 1, 2]


def test_an_open_exercise_is_no_answer() -> None:
    def left_open(number: int) -> int:
        raise NotImplementedError

    assert repr(check(left_open, abs, (1,))) == "○ left_open: not answered yet"
