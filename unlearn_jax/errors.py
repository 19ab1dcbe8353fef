"""Errors that a user or the disk causes."""


class UsageError(ValueError):
    """A user error: one line that names the option, its value, and what would be accepted.

    `benchmark.py` prints the line and exits with status 2.

    Args:
        option: as typed on the command line, such as `--dataset`.
        value: the value given.
        accepted: what would be accepted, in words.
    """

    status = 2

    def __init__(self, option: str, value: object, accepted: str):
        self.option, self.value, self.accepted = option, value, accepted
        super().__init__(f"{f'{option} {value}'.rstrip()}: {accepted}")


class StorageError(OSError):
    """A folder can no longer be written, for instance because the disk is full: one line that names the option.

    `benchmark.py` prints the line and exits with status 1. Everything that was written before is complete.

    Args:
        option: as typed on the command line: `--out` or `--cache`.
        path: the file or folder.
        error: the cause.
    """

    status = 1

    def __init__(self, option: str, path: object, error: OSError):
        reason = error.strerror or str(error)
        super().__init__(f"{option} {path}: cannot be written ({reason}); fix this and run the same command to resume")
        self.errno, self.strerror = error.errno, reason

    def __str__(self) -> str:
        return str(self.args[0])
