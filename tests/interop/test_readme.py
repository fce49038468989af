"""The recipes of README.md run as they stand there."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pandas as pd
import pytest
import tensorflow as tf
from flax import nnx
from flax.training.train_state import TrainState
from PIL import Image

import s3dlio_np
from tests import readme

SECTION = "With other libraries"
RNG = np.random.default_rng(10)
same = np.testing.assert_array_equal


def pandas_and_pyarrow(code: str) -> None:
    table = pd.DataFrame({"item": ["a", "b"] * 500, "price": RNG.random(1000)})
    names = readme.run(code, {"table": table})
    pd.testing.assert_frame_equal(names["prices"], table[["price"]])
    with s3dlio_np.open("s3://bucket/sales.csv") as stream:
        pd.testing.assert_frame_equal(pd.read_csv(stream), table)


def hdf5_images_joblib(code: str) -> None:
    images = RNG.integers(0, 256, (20, 30, 40, 3), np.uint8)
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        h5["images"] = images
    s3dlio_np.put("s3://bucket/data.h5", file.getbuffer())
    names = readme.run(code, {"model": {"weights": images}})
    same(names["rows"], images[:10])
    with s3dlio_np.open("s3://bucket/model.joblib") as stream:
        same(names["joblib"].load(stream)["weights"], images)
    with s3dlio_np.open("s3://bucket/first.png") as stream:
        same(np.asarray(Image.open(stream)), images[0])


def jax_trees(code: str) -> None:
    params = {"dense": {"kernel": jnp.ones((30, 20), jnp.bfloat16), "bias": jnp.arange(20.0)}}
    loaded = readme.run(code, {"params": params})["params"]
    assert loaded is not params
    assert loaded["dense"]["kernel"].dtype == jnp.bfloat16
    jax.tree.map(same, loaded, params)


def flax_states(code: str) -> None:
    params = {"w": jnp.ones((3, 4))}
    state = TrainState.create(apply_fn=None, params=params, tx=optax.adam(0.1))
    state = state.apply_gradients(grads=params)
    net = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    before = net(jnp.ones(3))
    names = readme.run(code, {"state": state, "net": net})
    assert names["state"] is not state
    assert int(names["state"].step) == 1
    jax.tree.map(same, names["state"].opt_state, state.opt_state)
    same(net(jnp.ones(3)), before)


def equinox_models(code: str) -> None:
    model = eqx.nn.MLP(3, 4, 50, 2, key=jax.random.key(0))
    loaded = readme.run(code, {"model": model})["model"]
    assert loaded is not model
    assert eqx.tree_equal(loaded, model)


def keras_models(code: str) -> None:
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    loaded = readme.run(code, {"model": model})["model"]
    assert loaded is not model
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        same(a, b)


def tensorflow_variables(code: str) -> None:
    kernel, batch = tf.Variable(tf.random.normal((3, 4))), tf.random.normal((10, 3))
    before = kernel.numpy()
    names = readme.run(code, {"kernel": kernel, "bias": tf.Variable(tf.zeros(4)), "batch": batch})
    same(names["loaded"]["kernel"], before)
    same(kernel.numpy(), before)
    assert names["batch"] is not batch
    same(names["batch"], batch)


RUNS: dict[str, Callable[[str], None]] = {
    "pandas and pyarrow": pandas_and_pyarrow,
    "h5py, Pillow, joblib": hdf5_images_joblib,
    "JAX": jax_trees,
    "flax": flax_states,
    "equinox": equinox_models,
    "Keras 3": keras_models,
    "TensorFlow": tensorflow_variables,
}


def test_no_recipe_is_left_out() -> None:
    assert list(readme.recipes(SECTION)) == list(RUNS)
    assert len(readme.blocks(SECTION)) == len(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_a_recipe(s3_own: Any, name: str) -> None:
    RUNS[name](readme.recipes(SECTION)[name])
    assert s3_own.objects() and not s3_own.uploads()
