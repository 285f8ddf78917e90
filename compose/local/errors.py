"""What the local stack raises: one class, because its caller (a person or a test) does one thing: read it."""


class StackError(Exception):
    """The stack cannot do what was asked; the text says what was expected, what was found, and what to do."""
