"""What an implementation says that cannot do what is asked for."""


class Unavailable(Exception):
    """The message is the reason, for readers of the result."""
