"""The one exception that the command line turns into a single clear line."""


class TsrollupError(Exception):
    """Something failed for a reason that the message states; the hint is the next step."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message
