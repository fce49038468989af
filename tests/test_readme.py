"""What README.md shows under "Use it" runs as it stands there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import s3dlio_np
from tests import readme


def test_use_it(s3_own: Any) -> None:
    save_torch, save_numpy, save_pickle, write_streams = readme.blocks("Use it")
    model = torch.nn.Linear(3, 2)
    loaded = readme.run(save_torch, {"model": model})["state"]
    assert loaded["step"] == 1000
    assert torch.equal(loaded["model"]["weight"], model.weight)

    images = np.arange(12).reshape(3, 4)
    names = readme.run(save_numpy, {"images": images, "labels": np.ones(3)})
    assert names["images"] is not images
    np.testing.assert_array_equal(names["images"], images)

    results = {"accuracy": [0.5, 0.75]}
    names = readme.run(save_pickle, {"results": results})
    assert names["results"] == results and names["results"] is not results

    readme.run(write_streams, {"array": images, "arrays": {"images": images}})
    assert s3dlio_np.get_bytes("s3://bucket/log.bin") == images.tobytes()
    np.testing.assert_array_equal(s3dlio_np.load("s3://bucket/big.npz")["images"], images)
    expected = ["big.npz", "data.npz", "log.bin", "results.pkl", "run1/step1000.pt"]
    assert sorted(s3_own.objects()) == expected
