"""equinox: leaves one after the other in one object, each read to its exact end."""

from __future__ import annotations

import io
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import s3dlio_np


def model(seed: int, width: int = 1500) -> Any:
    return eqx.nn.MLP(8, 4, width, 2, key=jax.random.key(seed))


def test_both_ways(target: Any, write: Any, read: Any) -> None:
    saved = model(0)
    with write("m.eqx") as stream:
        eqx.tree_serialise_leaves(stream, saved)
    stock = eqx.tree_deserialise_leaves(io.BytesIO(target.read("m.eqx")), model(1))
    with read("m.eqx") as stream:
        loaded = eqx.tree_deserialise_leaves(stream, model(1))
        assert stream.read() == b""
    assert eqx.tree_equal(loaded, saved)
    assert eqx.tree_equal(stock, saved)
    assert not eqx.tree_equal(model(1), saved)


def test_leaves_of_every_kind(target: Any, write: Any, read: Any) -> None:
    saved = {"a": jnp.ones(3, jnp.bfloat16), "b": np.arange(4), "c": 2, "d": 0.5, "e": True, "f": 1j}
    like = {"a": jnp.zeros(3, jnp.bfloat16), "b": np.zeros(4, int), "c": 0, "d": 0.0, "e": False, "f": 0j}
    with write("l.eqx") as stream:
        eqx.tree_serialise_leaves(stream, saved)
    with read("l.eqx") as stream:
        assert eqx.tree_equal(eqx.tree_deserialise_leaves(stream, like), saved)


def test_arrays_as_a_tree(target: Any) -> None:
    arrays, static = eqx.partition(model(0), eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)
    s3dlio_np.save_tree(target.uri("m.npz"), leaves)
    loaded = s3dlio_np.load_tree(target.uri("m.npz"), as_jax=True)
    assert eqx.tree_equal(eqx.combine(structure.unflatten(loaded), static), model(0))


def test_a_model_of_another_shape(write: Any, read: Any) -> None:
    with write("m.eqx") as stream:
        eqx.tree_serialise_leaves(stream, model(0))
    with read("m.eqx") as stream, pytest.raises(RuntimeError, match="shape"):
        eqx.tree_deserialise_leaves(stream, model(1, width=30))


def test_a_writer_that_fails(broken: Any) -> None:
    saved = eqx.tree_at(lambda m: m.layers[2].bias, model(0), jnp.ones(4))
    saved.layers[2].bias.delete()
    with broken(RuntimeError, "Error at leaf") as stream:
        eqx.tree_serialise_leaves(stream, saved)
