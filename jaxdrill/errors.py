"""The errors that a person is shown as one line; the exit code of each is in `main`."""


class UsageError(Exception):
    """The command, a flag or a recipe is wrong."""


class RunError(Exception):
    """The command is right, but it could not be done."""


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def nearest(word: str, words: list[str]) -> str:
    """`; did you mean X?` for the word most like it, or nothing."""
    import difflib

    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
