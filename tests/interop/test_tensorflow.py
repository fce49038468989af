"""TensorFlow: its serialised tensors, and variables as trees. Its checkpoints and SavedModels go
through TensorFlow's own file systems and take no streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import s3dlio_np

RNG = np.random.default_rng(8)


def tree() -> dict[str, Any]:
    return {
        "dense": {"kernel": tf.Variable(RNG.random((300, 200), np.float32)), "bias": tf.zeros(200)},
        "half": [tf.constant(RNG.random((40, 50)), tf.bfloat16), tf.constant([1, 2], tf.float16)],
        "narrow": tf.cast(tf.constant([1.0, 2.0]), tf.dtypes.experimental.float8_e5m2),
        "flags": (tf.constant([True, False]), tf.constant(3, tf.int64)),
        "step": 5,
    }


def test_serialised_tensors(target: Any, write: Any, read: Any) -> None:
    tensor = tf.constant(RNG.random((1500, 1000)))
    with write("t") as stream:
        stream.write(tf.io.serialize_tensor(tensor).numpy())
    with read("t") as stream:
        assert tf.reduce_all(tf.io.parse_tensor(stream.read(), tf.float64) == tensor)
    whole = s3dlio_np.get_bytes(target.uri("t"))
    assert tf.reduce_all(tf.io.parse_tensor(whole, tf.float64) == tensor)


def test_tensors_are_buffers(target: Any, write: Any) -> None:
    tensor = tf.constant(RNG.random((1500, 1000)))
    s3dlio_np.put(target.uri("raw"), tensor)
    assert target.read("raw") == tensor.numpy().tobytes()
    with write("raw") as stream:
        assert stream.write(tensor) == 12_000_000
    assert target.read("raw") == tensor.numpy().tobytes()


def test_a_tree(target: Any) -> None:
    saved = tree()
    s3dlio_np.save_tree(target.uri("t.npz"), saved)
    loaded = s3dlio_np.load_tree(target.uri("t.npz"))
    assert loaded["step"] == 5
    tensors = tf.nest.map_structure(tf.convert_to_tensor, loaded)
    tf.nest.assert_same_structure(tensors, saved)
    for a, b in zip(tf.nest.flatten(tensors), tf.nest.flatten(saved), strict=True):
        b = tf.convert_to_tensor(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.numpy().tobytes() == b.numpy().tobytes()


def test_like_takes_tensors(target: Any) -> None:
    saved = {"a": tf.zeros((2, 3)), "b": [tf.constant([1], tf.int64)]}
    s3dlio_np.save_tree(target.uri("t.npz"), saved)
    s3dlio_np.load_tree(target.uri("t.npz"), like=saved)
    with pytest.raises(ValueError, match="has shape"):
        s3dlio_np.load_tree(target.uri("t.npz"), like={**saved, "a": tf.zeros((3, 2))})
    with pytest.raises(ValueError, match="has dtype"):
        s3dlio_np.load_tree(target.uri("t.npz"), like={**saved, "a": tf.zeros((2, 3), tf.int32)})


def test_strings_are_objects(target: Any) -> None:
    with pytest.raises(TypeError, match="refer to Python objects"):
        s3dlio_np.save_tree(target.uri("t.npz"), {"text": tf.constant(["a", "b"])})
    assert target.names() == []


def test_a_writer_that_fails(broken: Any) -> None:
    with broken(tf.errors.InvalidArgumentError) as stream:
        stream.write(tf.io.serialize_tensor(tf.zeros(10)).numpy())
        tf.io.parse_tensor(b"no tensor", tf.float32)
