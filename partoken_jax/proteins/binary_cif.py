"""BinaryCIF files as the tables they hold: D. Sehnal et al., PLOS Comput. Biol. 16, e1008247 (2020)."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import gemmi
import msgpack
import numpy as np

WANTED = ("_atom_site", "_entity", "_entity_poly", "_struct_asym", "_struct", "_ma_qa_metric")
"""Tables that a structure is read from."""
MAX_VALUES = 2**27
"""Of a column, unpacked."""
_ERRORS = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)
_TYPES = {1: "<i1", 2: "<i2", 3: "<i4", 4: "<u1", 5: "<u2", 6: "<u4", 32: "<f4", 33: "<f8"}


def read_binary_cif(content: bytes) -> gemmi.cif.Document:
    """The tables `WANTED` of a BinaryCIF file.

    Raises ValueError for content that is none.
    """
    try:
        document = gemmi.cif.Document()
        for data in msgpack.unpackb(content, strict_map_key=False)["dataBlocks"]:
            block = document.add_new_block(str(data["header"]))
            for table in data["categories"]:
                if table["name"] in WANTED and table["columns"]:
                    _add_table(block, table)
    except (*_ERRORS, msgpack.UnpackException) as error:
        raise ValueError(f"this is no BinaryCIF: {type(error).__name__} {error}") from error
    return document


def _add_table(block: gemmi.cif.Block, table: Mapping[str, Any]) -> None:
    columns = [_cif_values(column) for column in table["columns"]]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"columns of {table['name']} differ in length")
    loop = block.init_loop(f"{table['name']}.", [str(column["name"]) for column in table["columns"]])
    loop.set_all_values(columns)


def _cif_values(column: Mapping[str, Any]) -> list[str]:
    """The values of a column as an mmCIF file would have them: "." and "?" where there is none."""
    values = decode(column["data"])
    texts = [
        gemmi.cif.quote(value) if isinstance(value, str) else repr(value)
        for value in (values if isinstance(values, list) else values.tolist())
    ]
    if column["mask"] is None:
        return texts
    mask = np.asarray(decode(column["mask"])).tolist()
    return [(text, ".", "?")[missing] for text, missing in zip(texts, mask, strict=True)]


def decode(packed: Mapping[str, Any]) -> Any:
    """Undoes the encodings of a column, the last one first. Returns an array, or a list of texts."""
    values: Any = packed["data"]
    for encoding in reversed(packed["encoding"]):
        kind = encoding["kind"]
        if kind == "ByteArray":
            values = np.frombuffer(values, _TYPES[encoding["type"]])
        elif kind == "FixedPoint":
            values = values / float(encoding["factor"])
        elif kind == "IntervalQuantization":
            step = (encoding["max"] - encoding["min"]) / (encoding["numSteps"] - 1 or 1)
            values = encoding["min"] + step * values
        elif kind == "Delta":
            values = np.cumsum(values, dtype=np.int64) + encoding["origin"]
        elif kind == "RunLength":
            values = _repeated(values[::2], values[1::2])
        elif kind == "IntegerPacking":
            values = _unpacked(values, encoding["isUnsigned"])
        elif kind == "StringArray":
            values = _texts(values, encoding)
        else:
            raise ValueError(f"encoding {kind!r} is unknown")
    return values


def _repeated(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    if len(times) != len(values) or (times < 0).any() or times.sum(dtype=np.int64) > MAX_VALUES:
        raise ValueError("a run has no length that can be")
    return np.repeat(values, times)


def _unpacked(values: np.ndarray, is_unsigned: bool) -> np.ndarray:
    """Sums of the values up to each that is not the largest or smallest of its type: those go on."""
    limits = np.iinfo(values.dtype)
    goes_on = (values == limits.max) | ((values == limits.min) & (not is_unsigned))
    if not len(values):
        return values
    if goes_on[-1]:
        raise ValueError("the last number is cut off")
    starts = np.concatenate([[0], np.flatnonzero(~goes_on)[:-1] + 1])
    return np.add.reduceat(values.astype(np.int64), starts)


def _texts(values: bytes, encoding: Mapping[str, Any]) -> list[str]:
    """Texts by their place in one long text; -1 is none."""
    ends = decode({"data": encoding["offsets"], "encoding": encoding["offsetEncoding"]}).tolist()
    every = [encoding["stringData"][start:end] for start, end in pairwise(ends)]
    places = decode({"data": values, "encoding": encoding["dataEncoding"]}).tolist()
    return [every[place] if place >= 0 else "" for place in places]
