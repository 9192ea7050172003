"""What goes through a channel, and who notices when an end is gone."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.channel import Channel, fingerprint, flat_bytes, flattened, tensors_in
from actors.messages import ChannelSpec
from actors.rendezvous import ReservedAddress
from actors.weights import NamedTensor, facts_of

pytestmark = pytest.mark.usefixtures("cluster")

SHAPES = st.lists(
    st.tuples(st.sampled_from([torch.float32, torch.bfloat16, torch.uint8]), st.lists(st.integers(0, 9), max_size=3)),
    min_size=1,
    max_size=5,
)


def bucket(shapes: Sequence[tuple[torch.dtype, Sequence[int]]]) -> list[NamedTensor]:
    torch.manual_seed(0)
    return [(f"weight {at}", (9 * torch.randn(list(shape))).to(dtype)) for at, (dtype, shape) in enumerate(shapes)]


@settings(deadline=None, max_examples=50)
@given(SHAPES)
def test_what_is_flattened_comes_out_again(shapes: Sequence[tuple[torch.dtype, Sequence[int]]]) -> None:
    sent = bucket(shapes)
    facts = [facts_of(name, tensor) for name, tensor in sent]
    flat = flattened(sent, facts)
    assert len(flat) == flat_bytes(facts)
    for (name, tensor), (found_name, found) in zip(sent, tensors_in(facts, flat), strict=True):
        assert found_name == name
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_a_fingerprint_tells_a_changed_byte_and_words_that_changed_places(data: st.DataObject) -> None:
    flat = torch.randint(256, (64 * data.draw(st.integers(1, 8)),), dtype=torch.uint8)
    assert fingerprint(flat) == fingerprint(flat.clone())
    changed = flat.clone()
    changed[data.draw(st.integers(0, len(flat) - 1))] ^= data.draw(st.integers(1, 255))
    assert fingerprint(changed) != fingerprint(flat)
    swapped = flat.clone().view(torch.int64)
    first, second = (data.draw(st.integers(0, len(swapped) - 1)) for _ in range(2))
    swapped[[first, second]] = swapped[[second, first]]
    assert (fingerprint(swapped.view(torch.uint8)) == fingerprint(flat)) == (swapped[first] == swapped[second])


def test_a_fingerprint_is_the_same_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = torch.randint(256, (64 * 100,), dtype=torch.uint8)
    whole = fingerprint(flat)
    monkeypatch.setattr("actors.channel._CHUNK_WORDS", 7)
    assert fingerprint(flat) == whole


def channel(size: int, timeout_seconds: float = 30) -> tuple[ChannelSpec, int]:
    reserved = ReservedAddress()
    host, port = reserved.address
    spec = ChannelSpec(host=host, port=port, size=size, timeout_seconds=timeout_seconds, use_gpu=False)
    listener = reserved.hand_over(0)
    assert listener is not None
    return spec, listener


def test_all_ends_receive_what_one_sends() -> None:
    spec, listener = channel(3)
    flat = torch.arange(64, dtype=torch.uint8)

    def send() -> torch.Tensor:
        Channel(spec, 0, listener).send(flat)
        return flat

    with ThreadPoolExecutor(3) as ends:
        found = [ends.submit(send), *(ends.submit(lambda at=at: Channel(spec, at).receive(64)) for at in (1, 2))]
        assert all(torch.equal(each.result(30), flat) for each in found)


def test_an_end_that_does_not_come_is_missed_in_time() -> None:
    spec, listener = channel(2, timeout_seconds=1)
    with pytest.raises(RuntimeError):
        Channel(spec, 0, listener)


def test_an_end_that_leaves_is_missed_at_once() -> None:
    spec, listener = channel(2)
    with ThreadPoolExecutor(2) as ends:
        sender, receiver = ends.submit(Channel, spec, 0, listener), ends.submit(Channel, spec, 1)
        sender.result(30).close()
        with pytest.raises(RuntimeError):
            receiver.result(30).receive(64)
