"""Headers of safetensors files, and what a file is that has none: decided before any tensor is read.

The safetensors layout (https://github.com/huggingface/safetensors): a little-endian u64 with the length of a JSON
header, the header, then the tensors' bytes without gaps. No allocation exceeds the header's length, which is
first checked against the file's size and a limit.
"""

import json
import math
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .listing import quoted, shortened

MAX_HEADER = 8 << 20  # bytes; a whole SDXL checkpoint needs 0.4 MB
MAX_NAME = 500  # letters of a tensor's name, because messages repeat it
_DTYPES = {8: "F64 I64 U64", 4: "F32 I32 U32", 2: "F16 BF16 I16 U16", 1: "F8_E4M3 F8_E5M2 I8 U8 BOOL"}
DTYPE_BYTES = {name: width for width, names in _DTYPES.items() for name in names.split()}
DOWNLOAD_AGAIN = "Download the file itself again and compare its size with the one given by its publisher."
# first bytes -> what the file is, what to do
_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file that it points to", "Run `git lfs pull` there."),
    (b"GGUF", "a GGUF file of quantised weights", "Only safetensors files can be read here."),
    (b"\x89PNG", "a PNG picture", "Choose the safetensors file of weights."),
    (b"\xff\xd8\xff", "a JPEG picture", "Choose the safetensors file of weights."),
    (b"RIFF", "a WebP picture or an AVI or WAV file", "Choose the safetensors file of weights."),
    (b"GIF8", "a GIF picture", "Choose the safetensors file of weights."),
    (b"\x93NUMPY", "a NumPy array", "Choose the safetensors file of weights."),
    (b"\x89HDF", "an HDF5 file", "Only safetensors files can be read here."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it and choose the safetensors file inside."),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack it and choose the safetensors file inside."),
    (b"Rar!", "a RAR archive", "Unpack it and choose the safetensors file inside."),
    (b"%PDF", "a PDF document", "Choose the safetensors file of weights."),
)


class WeightsFileError(ValueError):
    """A file of weights is damaged or of another kind. The message says what to do.

    pickle: whether torch.save or pickle wrote a file that should be safetensors
    """

    def __init__(self, message: str, pickle: bool = False):
        super().__init__(message)
        self.pickle = pickle


@contextmanager
def naming(path: Path, pickle_remedy: str = "") -> Iterator[None]:
    """Put the file's name in front of each WeightsFileError raised inside, and raise one if the file cannot be read.

    pickle_remedy: a sentence to add for a file that torch.save or pickle wrote.
    """
    from safetensors import SafetensorError

    try:
        yield
    except WeightsFileError as error:
        remedy = f" {pickle_remedy}" if error.pickle and pickle_remedy else ""
        raise WeightsFileError(f"{path.name} {error}{remedy}", error.pickle) from None
    except (SafetensorError, OSError) as error:
        raise WeightsFileError(f"{path.name} cannot be read: {error}") from error


@dataclass(frozen=True)
class TensorInfo:
    """dtype as safetensors writes it ("F16"), and shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """Metadata and tensors of a safetensors file."""

    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]


def read_header(path: Path) -> Header:
    """Return the header of a safetensors file, checked so that header and tensors fill the file exactly.

    Raises WeightsFileError, which says what the file is instead and what to do.
    """
    if path.is_dir():
        raise WeightsFileError("is a folder. Choose the safetensors file inside it.")
    if not path.is_file():
        raise WeightsFileError("does not exist. Check the name and the folder.")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512)
        length = int.from_bytes(start[:8], "little")
        if size < 9 or length > MAX_HEADER or start[8:9] != b"{":
            raise _not_safetensors(path, start, size, length)
        if length > size - 8:
            raise WeightsFileError(
                f"is cut off: its header should have {length:,} bytes and only {size - 8:,} are there. {DOWNLOAD_AGAIN}"
            )
        file.seek(8)
        text = file.read(length)
    try:
        content = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise WeightsFileError(f"has a damaged safetensors header ({error}). {DOWNLOAD_AGAIN}") from None
    return _parse(content, size - 8 - length)


def _not_safetensors(path: Path, start: bytes, size: int, length: int) -> WeightsFileError:
    """Return the error for a file that is not safetensors: it names the kind of file."""
    if not size:
        return WeightsFileError(f"is empty. {DOWNLOAD_AGAIN}")
    for signature, what, remedy in _SIGNATURES:
        if start.startswith(signature):
            return WeightsFileError(f"is {what}. {remedy}")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return WeightsFileError(
            "is a web page, saved in place of the file: the download needed a login or its link has moved. "
            + DOWNLOAD_AGAIN
        )
    if start.startswith(b"PK"):
        return _archive(path)
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return WeightsFileError("is a Python pickle, the older format of torch.save, not safetensors.", pickle=True)
    if start[4:8] == b"ftyp" or start.startswith(b"\x1aE\xdf\xa3"):
        return WeightsFileError("is a video. Choose the safetensors file of weights.")
    if start[8:9] == b"{":
        return WeightsFileError(
            f"declares a safetensors header of {length:,} bytes in a file of {size:,} (the limit is {MAX_HEADER:,}): "
            f"it is damaged or made to exhaust memory. {DOWNLOAD_AGAIN}"
        )
    if text.startswith((b"{", b"[")):
        return WeightsFileError("is a JSON text. Choose the safetensors file of weights beside it.")
    return WeightsFileError(f"is not a safetensors file, nor any other known format. {DOWNLOAD_AGAIN}")


def _archive(path: Path) -> WeightsFileError:
    """Return the error for a zip file: torch.save writes zips, others are plain archives."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return WeightsFileError(f"is a zip archive or torch.save file that is cut off or damaged. {DOWNLOAD_AGAIN}")
    if any(name.endswith("data.pkl") for name in names):
        return WeightsFileError("was written by torch.save: it is a pickle in a zip, not safetensors.", pickle=True)
    return WeightsFileError("is a zip archive. Unpack it and choose the safetensors file inside.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the dictionary of a JSON object (json's hook). Raises ValueError for a repeated name."""
    content = dict(pairs)
    if len(content) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{quoted(name)} is written twice")
    return content


def _parse(content: Any, data_bytes: int) -> Header:
    """Return the header after checking its entries and that the tensors fill the `data_bytes` after it."""
    if not isinstance(content, dict):
        raise WeightsFileError(f"has a safetensors header that is no JSON object. {DOWNLOAD_AGAIN}")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise WeightsFileError(f"has metadata other than texts. {DOWNLOAD_AGAIN}")
    tensors, spans = {}, []
    for name, entry in content.items():
        if len(name) > MAX_NAME:
            raise WeightsFileError(f"has a tensor with a name of {len(name):,} letters. {DOWNLOAD_AGAIN}")
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            sound = all(type(n) is int and 0 <= n < 1 << 48 for n in (*shape, begin, end)) and len(shape) < 9
            size = math.prod(shape) * DTYPE_BYTES[dtype] if sound else -1
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound or end - begin != size:
            raise WeightsFileError(
                f"describes the tensor {name!r} wrongly: {shortened(json.dumps(entry))}. {DOWNLOAD_AGAIN}"
            )
        tensors[name] = TensorInfo(dtype, shape)
        spans.append((begin, end))
    expected = 0
    for begin, end in sorted(spans):
        if begin != expected:
            raise WeightsFileError(f"has tensors that overlap or leave gaps at byte {begin:,}. {DOWNLOAD_AGAIN}")
        expected = end
    if expected > data_bytes:
        raise WeightsFileError(
            f"is cut off: {data_bytes:,} of {expected:,} bytes of weights are there. {DOWNLOAD_AGAIN}"
        )
    if expected < data_bytes:
        raise WeightsFileError(f"has {data_bytes - expected:,} bytes too many after its last tensor. {DOWNLOAD_AGAIN}")
    return Header(metadata, tensors)
