"""What a checker raises."""


class Violation(BaseException):
    """An invariant does not hold. `name` is its short name: I1 to I14, or what else went wrong.

    Not an Exception: the loops under test catch those, and go on.
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, text)  # as it is made anew from, where it comes out of another process
        self.name = name

    def __str__(self) -> str:
        return ": ".join(self.args)


def expect(condition: object, name: str, text: str) -> None:
    """Raise Violation unless `condition`. Where it is asked for every event, write it out: `text` is made each time."""
    if not condition:
        raise Violation(name, text)
