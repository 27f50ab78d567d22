"""What is sent to workers: pickled here, opened there, with sentences for what cannot be."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pdepth.optional import require

if TYPE_CHECKING:
    from torch import Tensor, nn

LONGEST_REASON = 200  # characters of another library's sentence
CANNOT = (
    TypeError,
    AttributeError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    pickle.PickleError,
)


def pickled(cloudpickle: Any, value: Any, what: str) -> bytes:
    """`value` with the code of `__main__` and of users' files; others are found by their names.

    cloudpickle: Ray's own. Raises TypeError that names what cannot be pickled.
    """
    from pdepth.inputs.python_files import imported_files

    for module in imported_files():
        cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(value))
    except CANNOT as error:
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise TypeError(
            f"{what}: expected what can be pickled for workers, got what cannot ({reason}); pass "
            "'file.py:function' in its place, which makes it there."
        ) from error


def pickled_network(cloudpickle: Any, model: Any) -> bytes:
    """A network. Raises TypeError that names the attribute which cannot be pickled."""
    try:
        return pickled(cloudpickle, model, "model")
    except TypeError as whole:
        for name, value in _attributes(model):
            try:
                pickled(cloudpickle, value, f"model: {name}")
            except TypeError as error:
                raise error from whole
        raise


def _attributes(model: Any) -> Iterator[tuple[str, Any]]:
    """What the modules of a network hold beside each other, by dotted names."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name != "_modules":
                yield f"{path}.{name}" if path else name, value


@dataclass(frozen=True, eq=False)
class Made:
    """What a function of a user's file makes, wherever it is called: `path/to/file.py:function`.

    state: of a network, the weights that it had where the call was made.
    """

    spec: str
    what: str
    state: dict[str, Tensor] | None = None

    def make(self) -> Any:
        """Call the function."""
        from pdepth.inputs.networks import network_of
        from pdepth.inputs.python_files import call_function

        made = call_function(self.spec, self.what)
        if self.state is None:
            return made
        model: nn.Module = network_of(made, self.what)
        model.load_state_dict(self.state)
        return model


Makers = dict[str, Made]
"""What makes a network ("model") or data ("support", "queries") in each worker."""


def is_ray_data(value: object) -> bool:
    """Whether a value is a `ray.data.Dataset`; imports nothing."""
    return type(value).__module__.startswith("ray.data") and hasattr(value, "split_at_indices")


def made_here(
    cluster: object, model: Any, support: Any, queries: Any
) -> tuple[Any, Any, Any, Makers]:
    """The arguments, those made here that are `path/to/file.py:function`; and what makes these. Of
    Ray's own datasets, their rows.

    cluster: None, where nothing is made.
    """
    if cluster is None:
        return model, support, queries, {}
    given = {"model": model, "support": support, "queries": queries}
    makers = {name: Made(value, name) for name, value in given.items() if isinstance(value, str)}
    given |= {name: maker.make() for name, maker in makers.items()}
    for name, value in given.items():
        if is_ray_data(value):
            from pdepth.cluster.ray_rows import RayRows

            given[name] = RayRows(value)
    return given["model"], given["support"], given["queries"], makers


@dataclass(frozen=True)
class Kept:
    """A value in the object store that a worker takes when it needs it, and again if it died."""

    ref: Any

    def value(self) -> Any:
        """The value."""
        return require("ray", "A worker", "ray").get(self.ref)


@dataclass(frozen=True)
class Sent:
    """What a worker makes its embeddings of: the pickles of a `network.NetworkTask`, and of the
    `network.Part`s that it reads."""

    task: Kept
    parts: Kept


def opened(pickle_: bytes) -> Any:
    """What was pickled elsewhere. Raises ImportError for code that is missing here."""
    try:
        return pickle.loads(pickle_)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"expected the code of what was sent, got {error}; install it on all machines, name it "
            "in Cluster(runtime_env={'py_modules': [...]}), or pass 'file.py:function'."
        ) from error
