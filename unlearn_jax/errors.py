"""Errors that a user causes, or the disk."""


class UsageError(ValueError):
    """A user error: one line that names the option, its value, and what would be accepted.

    `benchmark.py` prints the line and exits with status 2.

    Args:
        option: as typed on the command line, for instance `--dataset`.
        value: what was given.
        accepted: what would have been accepted, in words.
    """

    status = 2

    def __init__(self, option: str, value: object, accepted: str):
        self.option, self.value, self.accepted = option, value, accepted
        super().__init__(f"{f'{option} {value}'.rstrip()}: {accepted}")


class StorageError(OSError):
    """A folder that cannot be written any more, as when the disk is full: one line that names the option.

    `benchmark.py` prints the line and exits with status 1. Everything that was written before is whole.

    Args:
        option: as typed on the command line: `--out` or `--cache`.
        path: what could not be written.
        error: why.
    """

    status = 1

    def __init__(self, option: str, path: object, error: OSError):
        reason = error.strerror or str(error)
        super().__init__(f"{option} {path}: cannot be written ({reason}); the same command resumes once it can be")
        self.errno, self.strerror = error.errno, reason

    def __str__(self) -> str:
        return str(self.args[0])
