"""A model's weights and the document that describes them, as one file in the safetensors format.

The one tensor, `parameters`, is the flat vector as it is trained; the document is JSON among the metadata. Whoever stores
the file adds a checksum. What leaves this service is of another form, with a tensor for each layer's arrays:
`service/model_file.py`.
"""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import save

from common.store.client import to_json

_TENSOR = "parameters"
_DOCUMENT = "document"
_LENGTH_BYTES = 8
"""The file begins with the length of its header: https://github.com/huggingface/safetensors#format."""


def pack(document: dict[str, object], weights: bytes) -> bytes:
    """The file; `weights` are float32, little endian."""
    return save({_TENSOR: np.frombuffer(weights, "<f4")}, {_DOCUMENT: to_json(document)})


def unpack(content: bytes) -> tuple[dict[str, object], bytes]:
    """The document and the weights of a file that `pack` made.

    Raises:
        ValueError: that is none.

    """
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    try:
        header = json.loads(content[_LENGTH_BYTES:start])
        tensor = header[_TENSOR]
        document = json.loads(header["__metadata__"][_DOCUMENT])
        if tensor["dtype"] != "F32" or tensor["data_offsets"] != [0, len(content) - start]:
            raise ValueError("the tensor is not what follows the header")
    except (KeyError, TypeError) as error:
        raise ValueError("no file of a model") from error
    return document, content[start:]
