"""Bytes that other processes read."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.shared_bytes import shared, shared_at
from actors.weights import as_bytes, digest, facts_of, tensors_in

TENSORS = {
    "flag": torch.tensor([True]),
    "scale": torch.tensor(4.0, dtype=torch.float64),
    "empty": torch.zeros(0),
    "norm": torch.arange(7, dtype=torch.bfloat16),
}


def _read(place: str, sizes: list[int]) -> str:
    return digest(shared_at(place, sizes))


def test_another_process_reads_what_was_shared() -> None:
    arrays = [as_bytes(tensor) for tensor in TENSORS.values()]
    with multiprocessing.get_context("spawn").Pool(1) as pool, shared(arrays) as place:
        assert pool.apply(_read, (place, [array.size for array in arrays])) == digest(arrays)


def test_tensors_are_read_in_place_and_aligned() -> None:
    facts = [facts_of(name, tensor) for name, tensor in TENSORS.items()]
    with shared([as_bytes(tensor) for tensor in TENSORS.values()]) as place:
        contents = shared_at(place, [fact.num_bytes for fact in facts])
    received = dict(tensors_in(facts, contents))
    for name, tensor in TENSORS.items():
        assert torch.equal(received[name], tensor)
        assert received[name].data_ptr() % tensor.itemsize == 0


def test_a_reader_changes_nobody_elses_bytes() -> None:
    with shared([np.zeros(4, dtype=np.uint8)]) as place:
        shared_at(place, [4])[0][0] = 1
        assert shared_at(place, [4])[0][0] == 0


def test_nothing_is_left_behind() -> None:
    with shared([np.zeros(4, dtype=np.uint8)]) as place:
        assert Path(place).exists()
    assert not Path(place).exists()
    with pytest.raises(FileNotFoundError):
        shared_at(place, [4])
