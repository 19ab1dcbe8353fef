"""The suite's own check of shapes: which calls it sees."""

import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from beartype.roar import BeartypeDecorHintException
from first_calls import EVERY, FIRST, begin_test, check_first_calls
from jaxtyping import Float, TypeCheckError

from unlearn_jax.metrics import scaled_logits


@check_first_calls(typechecker=beartype)
def middle(values: Float[jnp.ndarray, "rows 3"]):
    return values[:, 1]


def raises(function, *args):
    try:
        function(*args)
    except TypeCheckError:
        return True
    return False


def test_the_first_calls_in_a_test_and_some_later_ones_are_checked():
    begin_test()
    found = [raises(middle, jnp.zeros((2, 2))) for _ in range(2 * EVERY)]
    assert found == [call <= FIRST or call % EVERY == 0 for call in range(1, 2 * EVERY + 1)]
    begin_test()
    assert raises(middle, jnp.zeros((2, 2)))


def test_the_packages_functions_are_checked():
    with pytest.raises(TypeCheckError):
        scaled_logits(np.zeros((2, 3, 4), np.float32), np.zeros((2, 3), int))


def test_a_function_within_a_function_is_the_same_whenever_it_is_defined():
    def refused():
        @check_first_calls(typechecker=beartype)
        def inner(values: Float[jnp.ndarray, "rows 3"]):
            return values

        return raises(inner, jnp.zeros((2, 2)))

    for _ in range(2):
        begin_test()
        assert [refused() for _ in range(2 * EVERY)] == [call <= FIRST or call % EVERY == 0 for call in range(1, 2 * EVERY + 1)]


def test_an_annotation_that_is_none_is_found_where_it_stands():
    def wrong(values: 3):
        return values

    with pytest.raises(BeartypeDecorHintException):
        check_first_calls(wrong, typechecker=beartype)
