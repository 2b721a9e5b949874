"""Why a request is not answered, as a status of HTTP and a sentence."""


class Refusal(Exception):
    """A request that is not answered, for a reason that whoever sent it is told.

    Args:
        status: the status of HTTP.
        message: a sentence that says what was got, what was wanted, and what to do.
        retry_after: seconds after which the same request may go through.

    Example:
        >>> Refusal(429, "256 images are waiting; try again", retry_after=2).headers()
        {'retry-after': '2'}
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after

    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


class Gone(Exception):
    """Whoever sent the request has closed the connection: nobody waits for an answer."""
