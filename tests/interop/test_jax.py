"""jnp.save and jnp.load on streams of ours, and trees of jax.Arrays."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import s3dlio_np
from tests import child

RNG = np.random.default_rng(6)
FLOAT8 = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz", "float8_e8m0fnu"]
NARROW = ["bfloat16", *FLOAT8, "int4", "uint2", "float4_e2m1fn"]


class State(NamedTuple):
    mu: Any
    nu: Any


def tree() -> dict[str, Any]:
    key = jax.random.key(0)
    return {
        "params": {
            "dense": {
                "kernel": jax.random.normal(key, (300, 200)),
                "bias": jnp.zeros(200, jnp.bfloat16),
            },
            "scale": jax.random.normal(key, (5,)).astype(jnp.float8_e4m3fn),
        },
        "opt": (State(jnp.ones(3), [jnp.arange(4)]), jnp.array(7)),
        "lr": 1e-3,
        "nothing": None,
    }


def same_tree(loaded: Any, expected: Any) -> None:
    assert jax.tree.structure(loaded) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(loaded), jax.tree.leaves(expected), strict=True
    ):
        assert np.asarray(a).dtype == np.asarray(b).dtype, path
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path


# --- jax.numpy's own functions ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "int8", "bool", "complex64", "bfloat16"])
def test_save_and_load(target: Any, write: Any, read: Any, dtype: str) -> None:
    array = jnp.asarray(RNG.integers(0, 2, (700, 900))).astype(dtype)
    with write("a.npy") as stream:
        jnp.save(stream, array)
    stock = jnp.load(io.BytesIO(target.read("a.npy")))
    with read("a.npy") as stream:
        loaded = jnp.load(stream)
    assert isinstance(loaded, jax.Array)
    same_tree([loaded, stock], [array, array])


def test_savez(target: Any, write: Any, read: Any) -> None:
    arrays = {"a": jnp.arange(2_000_000), "b": jnp.ones((3, 4))}
    with write("a.npz") as stream:
        jnp.savez(stream, **arrays)
    with np.load(io.BytesIO(target.read("a.npz"))) as stock, read("a.npz") as stream:
        for name, loaded in jnp.load(stream).items():
            np.testing.assert_array_equal(loaded, arrays[name])
            np.testing.assert_array_equal(stock[name], arrays[name])


def test_arrays_are_buffers(target: Any) -> None:
    array = jnp.arange(3_000_000, dtype=jnp.float32)
    s3dlio_np.put(target.uri("raw"), array)
    assert target.read("raw") == np.asarray(array).tobytes()


# --- trees --------------------------------------------------------------------------------------


def test_a_tree_as_numpy_arrays(target: Any) -> None:
    s3dlio_np.save_tree(target.uri("t.npz"), tree())
    loaded = s3dlio_np.load_tree(target.uri("t.npz"), like=tree())
    same_tree(loaded, tree())
    arrays = [leaf for leaf in jax.tree.leaves(loaded) if not isinstance(leaf, float)]
    assert all(type(leaf) is np.ndarray for leaf in arrays)


def test_a_tree_as_jax_arrays(target: Any) -> None:
    s3dlio_np.save_tree(target.uri("t.npz"), tree())
    loaded = s3dlio_np.load_tree(target.uri("t.npz"), like=tree(), as_jax=True)
    same_tree(loaded, tree())
    arrays = [leaf for leaf in jax.tree.leaves(loaded) if not isinstance(leaf, float)]
    assert all(isinstance(leaf, jax.Array) for leaf in arrays)


def test_shapes_are_enough_for_like(target: Any) -> None:
    arrays = {"params": tree()["params"], "opt": tree()["opt"]}
    s3dlio_np.save_tree(target.uri("t.npz"), arrays)
    shapes = jax.eval_shape(lambda: arrays)
    same_tree(s3dlio_np.load_tree(target.uri("t.npz"), like=shapes), arrays)


def test_a_namedtuple_has_its_fields_without_like(target: Any) -> None:
    s3dlio_np.save_tree(target.uri("t.npz"), tree())
    state = s3dlio_np.load_tree(target.uri("t.npz"))["opt"][0]
    np.testing.assert_array_equal(state.mu, np.ones(3))


@pytest.mark.parametrize("name", NARROW)
def test_dtypes_that_npy_has_no_name_for(target: Any, name: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name))
    array = RNG.integers(0, 2, (50, 40)).astype(dtype)
    leaves = [array, np.asfortranarray(array), array[3, 4], jnp.asarray(array)]
    s3dlio_np.save_tree(target.uri("t.npz"), leaves)
    loaded = s3dlio_np.load_tree(target.uri("t.npz"))
    assert [leaf.dtype for leaf in loaded] == [dtype] * 4
    assert isinstance(loaded[2], np.generic)
    assert loaded[1].flags.f_contiguous
    same_tree(loaded, leaves)
    with np.load(io.BytesIO(target.read("t.npz"))) as stock:
        assert stock["0"].dtype.kind == "u"
        assert stock["0"].view(dtype).tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("size", [1, 1000, 2_000_000])
def test_what_is_loaded_can_be_aliased(target: Any, dtype: str, size: int) -> None:
    array = np.arange(size).astype(jnp.dtype(dtype))
    s3dlio_np.save_tree(target.uri("t.npz"), [array])
    (loaded,) = s3dlio_np.load_tree(target.uri("t.npz"))
    placed = jax.device_put(loaded)
    assert placed.unsafe_buffer_pointer() == loaded.ctypes.data
    s3dlio_np.load_tree(target.uri("t.npz"))
    assert np.asarray(placed).tobytes() == array.tobytes()


def test_jax_would_narrow(target: Any) -> None:
    s3dlio_np.save_tree(target.uri("t.npz"), {"a": np.ones(3), "b": np.ones(3, "f4")})
    with pytest.raises(ValueError, match=r"\['a'\] is float64 .* jax_enable_x64"):
        s3dlio_np.load_tree(target.uri("t.npz"), as_jax=True)
    with jax.enable_x64(True):
        loaded = s3dlio_np.load_tree(target.uri("t.npz"), as_jax=True)
        assert loaded["a"].dtype == np.float64


def test_jax_has_no_such_arrays(target: Any) -> None:
    s3dlio_np.save_tree(target.uri("t.npz"), [np.array(["2020"], "M8[D]")])
    with pytest.raises(ValueError, match="jax has no arrays of datetime64"):
        s3dlio_np.load_tree(target.uri("t.npz"), as_jax=True)


def test_random_keys_are_no_arrays(target: Any) -> None:
    with pytest.raises(TypeError, match=r"\['key'\]: no array can be made"):
        s3dlio_np.save_tree(target.uri("t.npz"), {"key": jax.random.key(0)})
    assert target.names() == []
    s3dlio_np.save_tree(target.uri("t.npz"), jax.random.key_data(jax.random.key(3)))
    data = s3dlio_np.load_tree(target.uri("t.npz"), as_jax=True)
    assert jax.random.wrap_key_data(data) == jax.random.key(3)


def test_a_deleted_array(target: Any) -> None:
    array = jnp.ones(3)
    array.delete()
    with pytest.raises(TypeError, match=r"\[1\]: no array can be made"):
        s3dlio_np.save_tree(target.uri("t.npz"), [1, array])
    assert target.names() == []


@pytest.mark.parametrize("node", [{"dtype": "__loader__"}, {"dtype": 1}, {"dtype": "float64"}])
def test_dtypes_are_looked_up_not_run(target: Any, node: dict[str, Any]) -> None:
    document = {"format": "s3dlio tree", "version": 1, "tree": {"array": "a", **node}}
    file = io.BytesIO()
    np.savez(file, __tree__=np.array(json.dumps(document).encode()), a=np.ones(1, "u2"))
    target.write("t.npz", file.getvalue())
    with pytest.raises(ValueError, match="ml_dtypes has no dtype"):
        s3dlio_np.load_tree(target.uri("t.npz"))


def test_neither_is_imported_unasked(tmp_path: Path) -> None:
    script = """
        import sys
        import numpy as np
        import s3dlio_np
        s3dlio_np.save_tree(sys.argv[1], {"a": np.ones(3)})
        s3dlio_np.load_tree(sys.argv[1])
        print(sorted({"jax", "tensorflow", "ml_dtypes", "torch"} & set(sys.modules)))
    """
    assert child.run(script, tmp_path / "t.npz") == "[]\n"


def test_a_writer_that_fails(broken: Any) -> None:
    with broken(TypeError) as stream:
        jnp.save(stream, jnp.ones(3))
        jnp.save(stream, jax.random.key(0))
