"""What torch is asked during a search: how much, and whether a CUDA graph could hold it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import InterpretedFunction

# They take memory of torch's allocator or look at it in another way; none waits for the device, and
# none reads memory of the host.
CAPTURABLE = {
    *("aten.empty.memory_format", "aten.zeros.default", "aten.fill_.Scalar"),
    *("aten.unbind.int", "aten.slice.Tensor", "aten.select.int", "aten.view.default"),
}
VIEWS = {
    *("aten.unbind.int", "aten.slice.Tensor", "aten.select.int", "aten.view.default"),
    *("aten.detach.default", "aten.lift_fresh.default"),
}


class Operations(TorchDispatchMode):
    """Counts torch's operations; with `captured`, those that no graph can hold are errors."""

    def __init__(self, *, captured: bool = False) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.launches: list[str] = []
        self._captured, self._paused = captured, False

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if not self._paused:
            name = str(operation)
            self.counts[name] += 1
            assert not self._captured or name in CAPTURABLE, f"{name} in a CUDA graph"
        return operation(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """Without those that make another view of the same memory."""
        return sum(count for name, count in self.counts.items() if name not in VIEWS)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is noted of what an interpreted kernel does."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before


@contextmanager
def operations(*, captured: bool = False) -> Iterator[Operations]:
    """Torch's operations and the launches within."""
    run = InterpretedFunction.run
    with Operations(captured=captured) as mode:

        def noted(kernel: Any, *given: Any, **options: Any) -> Any:
            mode.launches.append(kernel.__name__)
            with mode.paused():
                return run(kernel, *given, **options)

        with mock.patch.object(InterpretedFunction, "run", noted):
            yield mode
