"""Whether a server answers, found out in seconds."""

import threading
import urllib.request

from jaxdrill.errors import RunError

TIMEOUT_SECONDS = 4.0


def assert_reachable(url: str) -> None:
    """Asks for the head of a URL; tfds's own retries take minutes.

    Raises:
        RunError: the server does not answer within TIMEOUT_SECONDS.
    """
    failure: list[str] = ["no answer"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_SECONDS
            ):
                failure.clear()
        except OSError as error:
            failure[0] = str(getattr(error, "reason", error))

    thread = threading.Thread(
        target=ask, daemon=True
    )  # a name look-up knows no time limit of its own
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    if failure:
        raise RunError(f"{url.split('/')[2]} cannot be reached ({failure[0]})")
