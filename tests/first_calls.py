"""Shapes and types are checked at the first calls of each function in every test, and at some of the later ones.

To check every call took half of the time of tests that call small functions thousands of times with the same shapes.
"""

import functools
import inspect

import jaxtyping

FIRST, EVERY = 8, 32  # calls of a function in a test that are checked: the first ones, then each of so many
test = 0  # the number of the test that runs
check_always = jaxtyping.jaxtyped


def check_first_calls(function=None, *, typechecker):
    """As `jaxtyping.jaxtyped`, which the import hook looks up by its name, but not at every call of a function."""
    if function is None:
        return functools.partial(check_first_calls, typechecker=typechecker)
    checked = check_always(function, typechecker=typechecker)
    if not inspect.isfunction(function):  # a class
        return checked
    seen, calls = test, 0

    @functools.wraps(checked)
    def call(*args, **kwargs):
        nonlocal seen, calls
        if seen != test:
            seen, calls = test, 0
        calls += 1
        return (checked if calls <= FIRST or calls % EVERY == 0 else function)(*args, **kwargs)

    return call


def begin_test():
    """The next call of each function is its first one."""
    global test
    test += 1
