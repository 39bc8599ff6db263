"""A stand-in for ipywidgets on live pages: the controls that the chapters use, as a browser's own. See live.js."""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

NUMBERS = count()
WIDGETS: dict[int, "Widget"] = {}  # By number, so that the page can say which one was moved


class Widget:
    """Something that the page shows."""

    def __init__(self, description: str = "") -> None:
        self.number, self.description = next(NUMBERS), description
        WIDGETS[self.number] = self

    def tree(self) -> dict[str, Any]:
        """What the page needs to know of it, for JSON."""
        return {"widget": type(self).__name__, "number": self.number, "description": self.description}


class Valued(Widget):
    """A control with a value that its watchers hear of."""

    def __init__(self, value: Any, description: str = "") -> None:
        super().__init__(description)
        self._value = value
        self.watchers: list[Callable[[], None]] = []

    def fit(self, value: Any) -> Any:
        """The nearest value that is allowed."""
        return value

    @property
    def value(self) -> Any:
        """What it is set to."""
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        fitting = self.fit(value)
        if fitting != self._value:
            self._value = fitting
            for watcher in self.watchers:
                watcher()


class Slider(Valued):
    """A number in a range."""

    kind: type = int

    def __init__(self, value: Any = 0, *, min: Any = 0, max: Any = 100, step: Any = 1, description: str = "") -> None:
        super().__init__(value, description)
        self.min, self.max, self.step = min, max, step

    def fit(self, value: Any) -> Any:
        """A number within the range."""
        return self.kind(max(self.min, min(self.max, value)))

    def tree(self) -> dict[str, Any]:
        """With its range."""
        return {**super().tree(), "min": self.min, "max": self.max, "step": self.step, "value": self.value}


class IntSlider(Slider):
    """A whole number."""


class FloatSlider(Slider):
    """Any number."""

    kind = float


class Choice(Valued):
    """One of several values; the page says its place among them."""

    def __init__(self, *, options: Sequence[Any], value: Any = None, description: str = "") -> None:
        self.options = list(options)
        super().__init__(self.options[0] if value is None else value, description)

    def fit(self, value: Any) -> Any:
        """The one of this place; a value of the options is itself."""
        return value if value in self.options else self._value

    def tree(self) -> dict[str, Any]:
        """With what there is to choose."""
        return {
            **super().tree(),
            "options": [str(one) for one in self.options],
            "value": self.options.index(self.value),
        }


class SelectionSlider(Choice):
    """On a scale."""


class ToggleButtons(Choice):
    """In a row of buttons."""


class Button(Widget):
    """Something to press."""

    def __init__(self, *, description: str) -> None:
        super().__init__(description)
        self.handlers: list[Callable[[Button], object]] = []

    def on_click(self, handler: Callable[["Button"], object]) -> None:
        """Call this one whenever it is pressed."""
        self.handlers.append(handler)


class Box(Widget):
    """Some of them together."""

    def __init__(self, children: Sequence[Widget]) -> None:
        super().__init__()
        self.children = list(children)

    def tree(self) -> dict[str, Any]:
        """With all that is inside."""
        return {**super().tree(), "children": [child.tree() for child in self.children]}


class HBox(Box):
    """Side by side."""


class VBox(Box):
    """One above the other."""


class Interactive(Box):
    """Controls, and what a function shows for their values."""

    def __init__(self, function: Callable[..., object], controls: Mapping[str, Valued]) -> None:
        super().__init__(list(controls.values()))
        self.function, self.controls = function, dict(controls)
        self.stale = False
        for name, control in controls.items():
            control.description = control.description or name
            control.watchers.append(self.forget)

    def forget(self) -> None:
        """A control was moved."""
        self.stale = True

    def result(self) -> object:
        """What the function gives now."""
        self.stale = False
        return self.function(**{name: control.value for name, control in self.controls.items()})


def interactive(function: Callable[..., object], options: Mapping[str, Any], **controls: Valued) -> Interactive:
    """Show a function's value, and show it anew when a control is moved."""
    return Interactive(function, controls)


def moved(number: int, value: Any = None) -> list[Interactive]:
    """Somebody moved a control, chose the option of this place, or pressed a button: what is to be shown anew."""
    widget = WIDGETS[number]
    if isinstance(widget, Button):
        for handler in widget.handlers:
            handler(widget)
    elif isinstance(widget, Choice):
        widget.value = widget.options[value]
    elif isinstance(widget, Valued):
        widget.value = value
    return [one for one in WIDGETS.values() if isinstance(one, Interactive) and one.stale]


def inner(root: Widget) -> list[Interactive]:
    """The interactive parts within a widget."""
    found = [root] if isinstance(root, Interactive) else []
    children = root.children if isinstance(root, Box) else []
    return [*found, *(one for child in children for one in inner(child))]
