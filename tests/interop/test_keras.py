"""Keras 3: models to and from streams.

save_model and model.save take a stream whose URI ends in .keras. The public load_model of this
version asks the file system about its argument and so takes paths only; the function below it, in
saving_lib, takes a stream.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any

import keras
import numpy as np
import pytest
from keras.src.saving import saving_lib

import s3dlio_np
from tests import child

X = np.linspace(0, 1, 64 * 8).reshape(64, 8)
Y = X @ np.ones((8, 3))


def trained(width: int = 1500) -> Any:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.Dense(400),
            keras.layers.Dense(3),
        ]
    )
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    return trained()


def assert_same(loaded: Any, model: Any) -> None:
    np.testing.assert_array_equal(
        loaded.predict(X, verbose=0), model.predict(X, verbose=0)
    )
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations) == 2


SAVERS = {
    "save_model": lambda model, file: keras.saving.save_model(model, file),
    "model.save": lambda model, file: model.save(file),
    "saving_lib": saving_lib.save_model,
}


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_both_ways(target: Any, write: Any, read: Any, model: Any, save: Any, tmp_path: Any) -> None:
    with write("m.keras") as stream:
        save(model, stream)
    written = target.read("m.keras")
    assert zipfile.ZipFile(io.BytesIO(written)).testzip() is None
    path = tmp_path / "stock.keras"
    path.write_bytes(written)
    assert_same(keras.saving.load_model(path), model)
    with read("m.keras") as stream:
        assert_same(saving_lib.load_model(stream), model)


def test_a_file_of_keras_itself(target: Any, read: Any, model: Any, tmp_path: Any) -> None:
    model.save(tmp_path / "stock.keras")
    target.write("m.keras", (tmp_path / "stock.keras").read_bytes())
    with read("m.keras") as stream:
        assert_same(saving_lib.load_model(stream), model)


def test_weights_as_a_tree(target: Any, model: Any) -> None:
    s3dlio_np.save_tree(target.uri("w.npz"), model.get_weights())
    other = keras.models.clone_model(model)
    other.set_weights(s3dlio_np.load_tree(target.uri("w.npz")))
    np.testing.assert_array_equal(other.predict(X, verbose=0), model.predict(X, verbose=0))


def test_other_names_and_the_public_loader(target: Any, refused: Any, read: Any, model: Any) -> None:
    """What the recipes steer around; when Keras changes, they can become shorter."""
    with refused(ValueError) as stream:
        model.save(stream)
    with s3dlio_np.open(target.uri("m.keras"), "wb") as stream:
        model.save(stream)
    with read("m.keras") as stream, pytest.raises(TypeError):
        keras.saving.load_model(stream)


ON_TENSORFLOW = """
    import sys, keras, numpy as np, s3dlio_np
    from keras.src.saving import saving_lib
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(900), keras.layers.Dense(900)])
    with s3dlio_np.open(sys.argv[1], "wb", part_size=5 << 20) as stream:
        model.save(stream)
    with s3dlio_np.open(sys.argv[1]) as stream:
        loaded = saving_lib.load_model(stream)
    same = map(np.array_equal, loaded.get_weights(), model.get_weights())
    print(keras.backend.backend(), all(same), len(loaded.get_weights()))
"""


def test_on_tensorflow(target: Any) -> None:
    env = {"KERAS_BACKEND": "tensorflow"}
    printed = child.run(ON_TENSORFLOW, target.uri("m.keras"), env=env, timeout_s=300)
    assert printed.splitlines()[-1] == "tensorflow True 4"


@keras.saving.register_keras_serializable("tests")
class Unsavable(keras.layers.Dense):
    def save_own_variables(self, store: Any) -> None:
        raise ZeroDivisionError("in saving")


def test_a_writer_that_fails(broken: Any) -> None:
    failing = keras.Sequential([keras.Input((8,)), Unsavable(3)])
    with broken(ZeroDivisionError, "in saving") as stream:
        saving_lib.save_model(failing, stream)
