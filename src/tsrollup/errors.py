"""Failures for a reason that can be told: what the command line turns into a single clear line."""


class TsrollupError(Exception):
    """Something failed for a reason that the message states; the hint is the next step, the code
    the SQLSTATE where the server said so: one of the codes below, or PostgreSQL's own."""

    code: str | None = None

    def __init__(self, message: str, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.code

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ArgumentError(TsrollupError):
    """An argument is wrong: a width, a name, a metric, a range."""

    code = "TR001"


class NotFoundError(TsrollupError):
    """A table, a column or a rollup is not there."""

    code = "TR002"


class InTheWayError(TsrollupError):
    """Something is in the way: a name that is taken, a rollup that reads this one."""

    code = "TR003"


class NotTrackableError(TsrollupError):
    """A right is missing, or the source cannot be tracked."""

    code = "TR004"


class TransactionError(TsrollupError):
    """It cannot be done in this transaction."""

    code = "TR005"


class LateRowsError(TsrollupError):
    """Rows came for time that is sealed."""

    code = "TR006"


class LostPartitionsError(TsrollupError):
    """Partitions of a source were dropped by somebody else."""

    code = "TR007"


_CLASSES = {error.code: error for error in TsrollupError.__subclasses__()}


def error_of(code: str | None, message: str, hint: str | None = None) -> TsrollupError:
    """The error of the class that the code has."""
    return _CLASSES.get(code, TsrollupError)(message, hint, code)
