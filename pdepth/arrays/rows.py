"""Arrays as backends see them: rows of numbers, borrowed, and copied only where they must be."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.native import default_arithmetic

TYPES = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "bfloat16", "float32", "float64"),
)
NORM_BYTES = 16  # of a row's norm and its factor


@dataclass(frozen=True, eq=False)
class Rows:
    """n rows of D elements.

    `array` (n, D) has contiguous rows; `type` names its elements, one of `TYPES`. It is NumPy's, or
    a torch tensor on the device where it was given. bfloat16, which NumPy lacks, is held as its
    bits in uint16.

    norms: of rows in NumPy's memory that count by their direction alone, for the metric "cosine":
    (n, 2) float64, a power of two of each row and the norm of the row times it. An element x stands
    for x * factor / norm, the bits of `definition.as_rows`, which is computed where rows are read.
    None: rows count as they are.
    """

    array: Any
    type: str
    norms: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, numbers: Any) -> Rows:
        """Some of the rows, by a slice or by their numbers (NumPy)."""
        norms = None if self.norms is None else self.norms[numbers]
        return Rows(self.array[numbers], self.type, norms)

    @property
    def on_device(self) -> bool:
        """Whether the array is a tensor on a device."""
        return is_torch(self.array)

    def on_host(self) -> Rows:
        """The same rows in NumPy's memory."""
        return Rows(_on_host(self.array), self.type) if self.on_device else self

    @property
    def width(self) -> int:
        return int(self.array.shape[1])

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, and of its norm."""
        return self.width * numpy_type(self.type).itemsize + (self.norms is not None) * NORM_BYTES

    @property
    def nbytes(self) -> int:
        """Bytes of the rows and their norms."""
        return len(self) * self.row_bytes

    @default_arithmetic()
    def widened(self) -> NDArray[np.float64]:
        """(n, D) float64, in NumPy's memory: a copy, divided by the norms where there are any."""
        array: NDArray[Any] = self.on_host().array
        if self.type == "bfloat16":
            array = widen_bits(array)
        wide = array.astype(np.float64)
        if self.norms is not None:
            divide(wide, self.norms)
        return wide

    def divided(self) -> Rows:
        """The same rows without norms: float64 copies where they have any, else themselves."""
        return self if self.norms is None else Rows(self.widened(), "float64")


class BFloat16(np.ndarray[Any, np.dtype[np.uint16]]):
    """bfloat16 where torch is not installed, since NumPy has no such type: the bits.

    pdepth's functions take them for the numbers that they stand for; NumPy refuses to calculate.
    """

    __array_ufunc__: Any = None


def as_bfloat16(bits: NDArray[Any]) -> Any:
    """bfloat16 of its bits, over the same memory: a torch tensor, or `BFloat16` without torch."""
    try:
        import torch
    except ModuleNotFoundError:
        return bits.view(BFloat16)
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


def widen_bits(bits: NDArray[Any]) -> NDArray[np.float32]:
    """float32 of bfloat16's bits in uint16."""
    wide: NDArray[np.float32] = (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)
    return wide


def divide(wide: NDArray[np.float64], norms: NDArray[np.float64]) -> None:
    """Divide rows by their norms in place; see `Rows`. Call it within `default_arithmetic`."""
    wide *= norms[:, :1]
    wide /= norms[:, 1:]


def is_torch(value: object) -> bool:
    """Whether `value` is a torch tensor; does not import torch."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)  # None while a thread imports it
    return tensor is not None and isinstance(value, tensor)


def device_of(value: Any) -> Any:
    """The device of a tensor, where answers are too; None for NumPy's memory."""
    return value.device if is_torch(value) else None


def type_name(dtype: Any) -> str:
    """The name of NumPy's or torch's type, whatever its byte order; booleans count as uint8."""
    if isinstance(dtype, np.dtype):
        dtype = dtype.newbyteorder("=").name
    name = str(dtype).removeprefix("torch.")
    return "uint8" if name == "bool" else name


def numpy_type(name: str) -> np.dtype[Any]:
    """The NumPy type that holds elements of a type: bfloat16 as its bits."""
    return np.dtype("uint16" if name == "bfloat16" else name)


def is_array(value: object) -> bool:
    """Whether `value` is one array, not a collection of arrays."""
    return is_torch(value) or isinstance(value, np.ndarray)


def is_sparse(value: object) -> bool:
    """Whether `value` is a sparse matrix or array, as of scipy.sparse; imports no library."""
    counts = hasattr(value, "nnz") or hasattr(value, "nse")
    return counts and (hasattr(value, "toarray") or hasattr(value, "todense"))


def check_array(value: object, what: str) -> None:
    """Raise TypeError for what is no array; a masked one would be read without its mask."""
    if is_sparse(value):
        method = "toarray" if hasattr(value, "toarray") else "todense"
        raise TypeError(
            f"{what}: expected a dense array, got a sparse {type(value).__name__}; pass its "
            f".{method}()."
        )
    # Who has such an array has imported its module; another thread may be about to.
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", None)
    if not is_array(value) or (masked is not None and isinstance(value, masked)):
        raise TypeError(
            f"{what}: expected a NumPy array or torch tensor, got a {type(value).__name__}."
        )


def rows_of(value: Any, what: str) -> Rows:
    """`value` (n, ...) as rows (n, D), further dimensions flattened.

    Copies only where the elements of a row are not contiguous or not in native byte order; a tensor
    on a CUDA device stays there.

    Raises:
        TypeError: no array of numbers.
        ValueError: fewer than two dimensions, or an empty array.
    """
    check_array(value, what)
    if value.ndim < 2:
        raise ValueError(f"{what}: expected shape (rows, width), got {tuple(value.shape)}.")
    kind = str(value.dtype).removeprefix("torch.")
    if not is_torch(value):
        kind = value.dtype.newbyteorder("=").name
    if isinstance(value, BFloat16):
        kind = "bfloat16"
    if kind not in (*TYPES, "bool"):
        raise TypeError(
            f"{what}: expected integers or floats of 16 to 64 bits, got elements of type {kind}."
        )
    if is_torch(value) and (value.layout != _torch().strided or value.is_meta):
        layout = "meta" if value.is_meta else str(value.layout).removeprefix("torch.")
        advice = "" if value.is_meta else "; pass its .to_dense()"
        raise TypeError(f"{what}: expected a dense tensor, got a {layout} one{advice}.")
    if 0 in value.shape:
        raise ValueError(
            f"{what}: expected at least one row and column, got shape {tuple(value.shape)}."
        )
    if is_torch(value) and value.is_cuda:
        tensor = value.detach().resolve_neg().reshape(len(value), -1)
        if tensor.shape[1] > 1 and tensor.stride(1) != 1:
            tensor = tensor.contiguous()
        if kind == "bool":
            return Rows((tensor.view(_torch().uint8) != 0).to(_torch().uint8), "uint8")
        return Rows(tensor, kind)
    array = _on_host(value) if is_torch(value) else value
    if array.ndim != 2:
        array = array.reshape(len(array), -1)
    if array.shape[1] > 1 and array.strides[1] != array.itemsize:
        array = np.ascontiguousarray(array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    if kind == "bool":
        return Rows(_truth(array), "uint8")
    if kind == "bfloat16":  # torch's bits, or the type that ml_dtypes adds to NumPy
        return Rows(np.asarray(array).view(np.uint16), kind)
    return Rows(array, kind)


def _truth(booleans: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Booleans as 0 and 1. A mask of 0 and 255 that is seen as booleans is true at any other byte
    than 0, and is copied."""
    stored = booleans.view(np.uint8)
    return stored if stored.max() <= 1 else (stored != 0).view(np.uint8)


def _on_host(tensor: Any) -> NDArray[Any]:
    """A torch tensor's memory as NumPy's, on the CPU; bfloat16 as uint16."""
    torch = _torch()
    host = tensor.detach().cpu().resolve_neg()  # NumPy has no such view
    if host.dtype == torch.bfloat16:
        return host.view(torch.int16).numpy().view(np.uint16)  # type: ignore[no-any-return]
    return host.numpy()  # type: ignore[no-any-return]


def shares_memory(rows: Rows, value: Any) -> bool:
    """Whether rows lie in the memory of the array that they came from: `rows_of` made no copy."""
    if not is_torch(value):
        return not is_torch(rows.array) and np.may_share_memory(rows.array, value)
    storage = value.untyped_storage()
    at = rows.array.data_ptr() if is_torch(rows.array) else rows.array.ctypes.data
    return bool(storage.data_ptr() <= at < storage.data_ptr() + storage.nbytes())


def as_given(rows: Rows, device: Any) -> Any:
    """Rows as an array of the kind that they came as: a tensor on `device`, or NumPy's for None.

    bfloat16, which NumPy lacks, is a tensor in any case, where torch is installed. A tensor of a
    file that is mapped, which cannot be written to, is a copy: torch knows no such.
    """
    if rows.on_device or (device is None and rows.type != "bfloat16"):
        return rows.array
    array = rows.array if rows.array.flags.writeable else rows.array.copy()
    if rows.type == "bfloat16":
        given = as_bfloat16(array)
        return given if device is None else given.to(device)
    import torch

    return torch.from_numpy(array).to(device)


def raw_bytes(tensor: Any) -> Any:
    """The bytes of a torch tensor's elements, in their order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(_torch().uint8).numpy().data if len(flat) else b""


def _torch() -> Any:
    """torch, which the owner of a tensor has imported."""
    return sys.modules["torch"]
