"""Errors that a user or the disk causes: one line each, which names the argument. The command line spells it as an option."""


class ArgumentError(ValueError):
    """A user error: one line that names the argument, its value, and what would be accepted.

    Args:
        argument: its name in Python, such as `train_size`; a method's hyperparameter as `scrub.epochs`.
        value: the value given.
        accepted: what would be accepted, in words.
    """

    status = 2

    def __init__(self, argument: str, value: object, accepted: str):
        self.argument, self.value, self.accepted = argument, value, accepted
        super().__init__(argument, value, accepted)

    def __str__(self) -> str:
        return self.told(self.argument)

    def told(self, name: str) -> str:
        """Returns the line with another name for the argument, such as the option that sets it."""
        return f"{f'{name} {self.value}'.rstrip()}: {self.accepted}"


class UsageError(ArgumentError):
    """An error on the command line; `argument` is the option as typed, such as `--train-size`.

    `benchmark.py` prints the line and exits with status 2.
    """


class StorageError(OSError):
    """A folder can no longer be written, for instance because the disk is full: one line that names the argument.

    `benchmark.py` prints the line and exits with status 1. Everything that was written before is complete.

    Args:
        argument: `out` or `cache`.
        path: the file or folder.
        error: the cause.
    """

    status = 1

    def __init__(self, argument: str, path: object, error: OSError):
        super().__init__()
        self.argument, self.path = argument, path
        self.errno, self.strerror = error.errno, error.strerror or str(error)

    def __str__(self) -> str:
        return self.told(self.argument)

    def told(self, name: str) -> str:
        """Returns the line with another name for the argument, such as the option that sets it."""
        return f"{name} {self.path}: cannot be written ({self.strerror}); fix this and run the same command to resume"

    def __reduce__(self) -> tuple:
        """Pickled by its cause: it may arise in another process."""
        return StorageError, (self.argument, self.path, OSError(self.errno, self.strerror))


class WorkersError(RuntimeError):
    """Other processes that were to do the work were lost, or cannot do it: one line that names the argument.

    `benchmark.py` prints the line and exits with status 1. What was trained is in the cache.

    Args:
        argument: `workers`, `scheduler` or `client`.
        value: the value given.
        problem: what happened, in words.
    """

    status = 1

    def __init__(self, argument: str, value: object, problem: str):
        self.argument, self.value, self.problem = argument, value, problem
        super().__init__(argument, value, problem)

    def __str__(self) -> str:
        return self.told(self.argument)

    def told(self, name: str) -> str:
        """Returns the line with another name for the argument, such as the option that sets it."""
        return f"{name} {self.value}: {self.problem}; run the same command to resume"
