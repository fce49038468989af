"""flax: its own bytes (linen and nnx), and its states as trees."""

from __future__ import annotations

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx, serialization
from flax.training.train_state import TrainState

import s3dlio_np


class Net(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.Dense(3)(linen.relu(linen.Dense(1800)(x)))


def state(seed: int) -> TrainState:
    net = Net()
    parameters = net.init(jax.random.key(seed), jnp.ones((1, 800)))
    created = TrainState.create(apply_fn=net.apply, params=parameters, tx=optax.adam(1e-3))
    gradients = jax.tree.map(jnp.ones_like, parameters)
    return created.apply_gradients(grads=gradients)


def assert_same(loaded: Any, expected: Any) -> None:
    assert jax.tree.structure(loaded) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)


def test_its_own_bytes(target: Any, write: Any, read: Any) -> None:
    saved, other = state(0), state(1)
    with write("s.msgpack") as stream:
        stream.write(serialization.to_bytes(saved))
    with read("s.msgpack") as stream:
        loaded = serialization.from_bytes(other, stream.read())
    view = s3dlio_np.get_bytes_view(target.uri("s.msgpack"))
    for from_bytes in (loaded, serialization.from_bytes(other, view)):
        assert_same(from_bytes.params, saved.params)
        assert_same(from_bytes.opt_state, saved.opt_state)
        assert from_bytes.step == 1


def test_a_train_state_as_a_tree(target: Any) -> None:
    saved, other = state(0), state(1)
    s3dlio_np.save_tree(target.uri("s.npz"), serialization.to_state_dict(saved))
    tree = s3dlio_np.load_tree(target.uri("s.npz"), as_jax=True)
    loaded = serialization.from_state_dict(other, tree)
    assert_same(loaded.params, saved.params)
    assert_same(loaded.opt_state, saved.opt_state)


def test_optax_states_keep_their_types(target: Any) -> None:
    saved, other = state(0), state(1)
    tree = (saved.params, saved.opt_state)
    s3dlio_np.save_tree(target.uri("s.npz"), tree)
    loaded = s3dlio_np.load_tree(target.uri("s.npz"), like=(other.params, other.opt_state))
    assert type(loaded[1][0]) is type(saved.opt_state[0])
    assert_same(loaded, tree)


def test_frozen_dicts(target: Any) -> None:
    frozen = flax.core.freeze({"params": {"w": jnp.ones(3)}})
    s3dlio_np.save_tree(target.uri("f.npz"), frozen)
    assert type(s3dlio_np.load_tree(target.uri("f.npz"))) is dict
    loaded = s3dlio_np.load_tree(target.uri("f.npz"), like=frozen)
    assert type(loaded) is flax.core.FrozenDict
    assert_same(loaded, frozen)


def test_nnx(target: Any) -> None:
    saved, other = (nnx.Linear(30, 40, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    s3dlio_np.save_tree(target.uri("n.npz"), nnx.to_pure_dict(nnx.state(saved)))
    variables = nnx.state(other)
    nnx.replace_by_pure_dict(variables, s3dlio_np.load_tree(target.uri("n.npz"), as_jax=True))
    nnx.update(other, variables)
    x = jnp.ones((1, 30))
    np.testing.assert_array_equal(other(x), saved(x))


def test_a_writer_that_fails(target: Any, write: Any) -> None:
    with pytest.raises(TypeError), write("s.msgpack") as stream:
        stream.write(serialization.to_bytes(state(0)))
        stream.write(serialization.to_bytes({"a": object()}))
    assert target.names() == [] and target.leftovers() == []
