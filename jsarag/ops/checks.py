"""Each op's arguments are declared once, in a record; here it becomes the checks at the op's door.

A record is a named tuple whose annotations say what each argument may be::

    class DrawArguments(NamedTuple):
        tile_lse: Annotated[Tensor, Sized("B tiles", (torch.float32,))]
        uniforms: Annotated[Tensor, Sized("B M", (torch.float64, torch.float32))]

From a :class:`Signature` of such records come the checks, the same for every backend, and the
schema that torch knows the op by. What remains to an op are rules between its arguments.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any, NamedTuple, get_args, get_type_hints

import torch
from torch import Tensor

from jsarag.errors import DtypeError, JsaragError, ShapeError

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGERS = (torch.int32, torch.int64)


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for torch.float32."""
    return str(dtype).removeprefix("torch.")


class Sized(NamedTuple):
    """A tensor: the names of its sizes, and its dtype.

    sizes: ``"B D"``; a size of one name is the same in all arguments of an op.
    dtypes: those it may have, or the name of an earlier argument that has the same.
    name: the user's, where it is not the field's.
    """

    sizes: str
    dtypes: tuple[torch.dtype, ...] | str
    name: str = ""


class Number(NamedTuple):
    """A number: what is expected, in words, and whether one is that."""

    expected: str
    fits: Callable[[Any], bool]


POSITIVE = Number("a positive finite number", lambda value: 0.0 < value < math.inf)
FINITE = Number("a finite number", math.isfinite)
AT_LEAST_1 = Number("1 or more", lambda value: value >= 1)


class _Argument(NamedTuple):
    name: str
    optional: bool
    number: Number | None  # None: a tensor
    types: tuple[type, ...]
    sizes: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    same_dtype: int  # where dtypes is empty: that of the argument in this position


# How torch writes the types of an op's arguments.
_TORCH_TYPES = {Tensor: "Tensor", float: "float", int: "int", bool: "bool", list[bool]: "bool[]"}


class Signature:
    """The arguments of an op.

    Args:
        op: its name.
        records: named tuple classes; the op takes their fields one after the other.
        differentiable: whether the op has a gradient; else what it gets is detached.
    """

    def __init__(self, op: str, *records: Any, differentiable: bool = False) -> None:
        self.op, self.records, self.differentiable = op, records, differentiable
        self.arguments: list[_Argument] = []
        written = []
        for record in records:
            for field, hint in get_type_hints(record, include_extras=True).items():
                kind, *rules = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
                optional = type(None) in get_args(kind)
                (kind,) = set(get_args(kind)) - {type(None)} if optional else (kind,)
                self.arguments.append(self._argument(field, kind, optional, *rules))
                written.append(f"{_TORCH_TYPES[kind]}{'?' * optional} {field}")
        self.schema = ", ".join(written)
        self._tensors = [
            (position, argument)
            for position, argument in enumerate(self.arguments)
            if argument.number is None
        ]
        ends = list(accumulate(len(record._fields) for record in records))
        self._parts = list(
            zip(records, [slice(a, b) for a, b in pairwise([0, *ends])], strict=True)
        )

    def _argument(
        self, field: str, kind: Any, optional: bool, rule: Sized | Number | None = None
    ) -> _Argument:
        if not isinstance(rule, Sized):
            types = (float, int, numbers.Real) if kind is float else (kind,)
            number = rule or Number("", lambda value: True)
            return _Argument(field, optional, number, types, (), (), 0)
        same, dtypes = 0, rule.dtypes
        if isinstance(dtypes, str):
            (same,) = (n for n, other in enumerate(self.arguments) if other.name == dtypes)
            dtypes = ()
        name, sizes = rule.name or field, tuple(rule.sizes.split())
        return _Argument(name, optional, None, (Tensor,), sizes, dtypes, same)

    def split(self, values: Sequence[Any]) -> list[Any]:
        """The records again, from all their fields in order."""
        return [record._make(values[part]) for record, part in self._parts]

    def checked(self, *records: tuple[Any, ...]) -> list[Any]:
        """All fields of the records, for the op; it can trust them.

        Raises:
            ShapeError: a tensor has another shape, or lies on another device than the first.
            DtypeError: a tensor has another dtype, or is none.
            JsaragError: a number is out of range.
        """
        values = list(chain(*records))
        sizes: dict[str, int] = {}
        device = None
        for position, argument in enumerate(self.arguments):
            value = values[position]
            _, optional, number, types, names, dtypes, same_dtype = argument
            if value is None and optional:
                continue
            if number is not None:
                if not (isinstance(value, types) and number.fits(value)):
                    raise self._misfit(argument, value)
                continue
            if not isinstance(value, Tensor) or value.layout is not torch.strided:
                raise self._no_tensor(argument, value)
            if value.dtype not in (dtypes or (values[same_dtype].dtype,)):
                raise self._other_dtype(argument, value, dtypes or (values[same_dtype].dtype,))
            shape = value.shape
            if len(shape) != len(names):
                raise self._other_shape(position, values)
            for name, size in zip(names, shape, strict=True):
                if sizes.setdefault(name, size) != size:
                    raise self._other_shape(position, values)
            if device is None:
                device = value.device
            elif value.device != device:
                raise self._other_device(values)
            if value.requires_grad and not self.differentiable:
                values[position] = value.detach()
        return values

    def require_aligned(self, values: Sequence[Any]) -> None:
        """Refuse a tensor that begins inside a number: a GPU stops at such an address for good.

        Raises:
            ShapeError: names the argument.
        """
        for position, argument in self._tensors:
            value = values[position]
            if value is not None and value.data_ptr() % value.element_size():
                raise ShapeError(
                    f"{self.op}: {argument.name} expected an address that is a multiple of "
                    f"{value.element_size()} bytes ({dtype_name(value.dtype)}), found "
                    f"{value.data_ptr():#x}; clone() it"
                )

    def _misfit(self, argument: _Argument, value: Any) -> JsaragError:
        assert argument.number is not None
        expected = argument.number.expected or f"{argument.types[0].__name__}"
        if argument.optional:
            expected += " or None"
        return JsaragError(f"{self.op}: {argument.name} expected {expected}, found {value!r}")

    def _no_tensor(self, argument: _Argument, value: Any) -> DtypeError:
        said = f"{self.op}: {argument.name} expected a tensor, found"
        if isinstance(value, Tensor):
            return DtypeError(f"{said} one of layout {value.layout}; to_dense() it")
        return DtypeError(f"{said} {type(value).__name__}; torch.as_tensor makes one")

    def _other_dtype(
        self, argument: _Argument, value: Tensor, dtypes: Sequence[torch.dtype]
    ) -> DtypeError:
        expected = ", ".join(dtype_name(dtype) for dtype in dtypes)
        return DtypeError(
            f"{self.op}: {argument.name} expected {expected}, found {dtype_name(value.dtype)}; "
            "convert it"
        )

    def _other_shape(self, position: int, values: Sequence[Any]) -> ShapeError:
        argument = self.arguments[position]
        known: dict[str, str] = {}
        for other, value in zip(self.arguments[:position], values[:position], strict=True):
            if value is not None:
                for size, found in zip(
                    other.sizes, value.shape if other.sizes else (), strict=True
                ):
                    known.setdefault(size, f"{size} = {found} as in {other.name}")
        where = " and ".join(known[size] for size in argument.sizes if size in known)
        return ShapeError(
            f"{self.op}: {argument.name} expected shape [{', '.join(argument.sizes)}]"
            f"{' with ' * bool(where)}{where}, found {list(values[position].shape)}"
        )

    def _other_device(self, values: Sequence[Any]) -> ShapeError:
        where = ", ".join(
            f"{argument.name} on {value.device}"
            for argument, value in zip(self.arguments, values, strict=True)
            if isinstance(value, Tensor)
        )
        return ShapeError(f"{self.op}: expected all tensors on one device, found {where}")
