"""How the batches of one step name the blocks that hold its tokens."""

from experience.records import BlockHandle


class BlockNumbers:
    """Numbers blocks in the order in which they are first asked for: the same in every batch of the step."""

    def __init__(self) -> None:
        self._handles: list[BlockHandle] = []
        self._numbers: dict[int, int] = {}

    @property
    def handles(self) -> tuple[BlockHandle, ...]:
        """All that have a number, by it."""
        return tuple(self._handles)

    def number(self, handle: BlockHandle) -> int:
        """The place of `handle` in `handles`."""
        if id(handle) not in self._numbers:
            self._numbers[id(handle)] = len(self._handles)
            self._handles.append(handle)
        return self._numbers[id(handle)]
