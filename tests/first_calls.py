"""Shapes and types are checked at the first calls of each function in every test, and at some of the later ones.

To check every call took half of the time of tests that call small functions thousands of times with the same shapes. A function
within a function is one and the same whenever it is defined anew: to prepare its checks takes longer than most of them run.
"""

import functools
import inspect

import jaxtyping

FIRST, EVERY = 2, 64  # calls of a function in a test that are checked: the first ones, then each of so many
test = 0  # the number of the test that runs
check_always = jaxtyping.jaxtyped


class Calls:
    """In how many calls a function was in the test that runs."""

    def __init__(self):
        self.test = self.count = 0

    def checked(self):
        """Counts one more; whether it is to be checked."""
        if self.test != test:
            self.test, self.count = test, 0
        self.count += 1
        return self.count <= FIRST or self.count % EVERY == 0


of_places: dict[tuple, Calls] = {}  # by where in the code


def check_first_calls(function=None, *, typechecker):
    """As `jaxtyping.jaxtyped`, which the import hook looks up by its name, but not at every call of a function."""
    if function is None:
        return functools.partial(check_first_calls, typechecker=typechecker)
    if not inspect.isfunction(function):  # a class
        return check_always(function, typechecker=typechecker)
    code = function.__code__
    place = code.co_filename, code.co_firstlineno, code.co_qualname
    checking = None
    if place not in of_places:  # annotations that mean nothing are found where they stand, whether it is called or not
        of_places[place], checking = Calls(), check_always(function, typechecker=typechecker)
    calls = of_places[place]

    @functools.wraps(function)
    def call(*args, **kwargs):
        nonlocal checking
        if not calls.checked():
            return function(*args, **kwargs)
        if checking is None:
            checking = check_always(function, typechecker=typechecker)
        return checking(*args, **kwargs)

    return call


def begin_test():
    """The next call of each function is its first one."""
    global test
    test += 1
