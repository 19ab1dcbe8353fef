"""`import unlearn_jax`: the public names, which cost nothing until they are used."""

import subprocess
import sys

import pytest

import unlearn_jax
from unlearn_jax import influence, methods


@pytest.mark.parametrize("name", unlearn_jax.__all__)
def test_a_public_name_is_there(name):
    assert getattr(unlearn_jax, name) is not None and name in dir(unlearn_jax)


def test_a_public_name_is_the_object_of_its_room():
    assert unlearn_jax.METHODS is methods.METHODS
    assert unlearn_jax.leave_one_out is influence.leave_one_out


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="unlearn_jax has no attribute nothing"):
        unlearn_jax.nothing  # noqa: B018


def test_the_import_alone_brings_no_jax_and_a_name_does():
    code = "import sys, unlearn_jax as uj; assert not {'jax', 'numpy'} & {*sys.modules}; uj.build; assert 'jax' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
