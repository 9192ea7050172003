"""The weight sync, where it needs no engine: what is published, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from actors.weights import (
    Bucket,
    as_bytes,
    check_complete,
    checksum_of,
    digest,
    expected_shapes,
    facts_of,
    prove,
    tensors_of,
)
from experience.records import Weights

TENSORS = {
    "embed": torch.arange(6, dtype=torch.float32).view(3, 2),
    "norm": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "scale": torch.tensor(4.0),
}
SHAPES = {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}


def published(tensors: dict[str, torch.Tensor], version: int = 3) -> tuple[Weights, list[list[np.ndarray]]]:
    """Weights in one bucket, and its bytes; no store between them."""
    contents = [as_bytes(tensor) for tensor in tensors.values()]
    facts = tuple(facts_of(name, tensor) for name, tensor in tensors.items())
    buckets = (Bucket(facts=facts, checksum=digest(contents), handle=None),)
    return Weights(version=version, checksum=checksum_of(buckets), handle=buckets), [contents]


def test_tensors_arrive_as_they_were_sent() -> None:
    weights, contents = published(TENSORS)
    prove(weights, contents)
    received = dict(tensors_of(weights, contents))
    assert list(received) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert received[name].dtype == tensor.dtype
        assert received[name].shape == tensor.shape
        assert torch.equal(received[name], tensor)


def test_contiguous_tensors_are_read_in_place() -> None:
    tensor = torch.zeros(4)
    view = as_bytes(tensor)
    tensor[0] = 1.0
    assert view[:4].tobytes() == np.float32(1.0).tobytes()


def test_transposed_tensors_are_sent_in_their_own_order() -> None:
    tensor = torch.arange(6, dtype=torch.float32).view(2, 3).T
    weights, contents = published({"w": tensor})
    assert torch.equal(dict(tensors_of(weights, contents))["w"], tensor)


@pytest.mark.parametrize("position", [0, 7, 23])
def test_one_changed_byte_is_noticed(position: int) -> None:
    weights, contents = published(TENSORS)
    changed = contents[0][0].copy()
    changed[position] ^= 1
    with pytest.raises(ValueError, match=r"version 3: bucket 0 has checksum .* changed on the way"):
        prove(weights, [[changed, *contents[0][1:]]])


def test_a_changed_name_is_noticed() -> None:
    weights, contents = published(TENSORS)
    bucket = weights.handle[0]
    renamed = replace(bucket, facts=(replace(bucket.facts[0], name="other"), *bucket.facts[1:]))
    with pytest.raises(ValueError, match="not those of its checksum"):
        prove(replace(weights, handle=(renamed,)), contents)


def test_equal_weights_have_equal_checksums_and_others_have_not() -> None:
    assert published(TENSORS)[0].checksum == published(TENSORS, version=9)[0].checksum
    assert published(TENSORS)[0].checksum != published(TENSORS | {"scale": torch.tensor(5.0)})[0].checksum


def test_complete_weights_pass() -> None:
    check_complete(published(TENSORS)[0], SHAPES)


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"embed": TENSORS["embed"], "norm": TENSORS["norm"]}, "version 3 do not fit the model: scale is missing"),
        (TENSORS | {"bias": torch.zeros(1)}, "bias is unknown"),
        (TENSORS | {"embed": torch.zeros(2, 3)}, r"embed has shape \(2, 3\), the model's is \(3, 2\)"),
        ({}, "embed is missing; norm is missing; scale is missing"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tensors: dict[str, torch.Tensor], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_complete(published(tensors)[0], SHAPES)


def test_a_tied_head_may_be_missing() -> None:
    check_complete(published(TENSORS)[0], SHAPES | {"lm_head.weight": (3, 2)}, may_miss=("lm_head.weight",))


def test_expected_shapes_are_those_of_all_shards(tmp_path: Path) -> None:
    save_file({"embed": TENSORS["embed"]}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"norm": TENSORS["norm"], "scale": TENSORS["scale"]}, tmp_path / "model-00002-of-00002.safetensors")
    assert expected_shapes(tmp_path) == SHAPES


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no \*\.safetensors file"):
        expected_shapes(tmp_path)
