"""What a frame's payload says about itself: whose it is, and little more. Sans-IO.

Rules: payloads stay opaque but for the store id, which routes a frame, and the store info, which names a recording;
peeks read the first bytes of a payload, so that nothing needs the whole of an image to know whose it is.

Source: rerun/log_msg/v1alpha1/log_msg.proto and common/v1alpha1/common.proto of Rerun; field numbers checked
with SDK 0.23.4, 0.27.3, 0.31.4, 0.36.3 and 0.41.0:

    SetStoreInfo{1: row_id, 2: StoreInfo}
    StoreInfo{1: ApplicationId (gone from newer SDKs), 2: StoreId, 6: StoreVersion{1: crate_version_bits}}
    ArrowMsg{1: StoreId, ..., 5: payload, 6: chunk_id, 7: is_static}
    BlueprintActivationCommand{1: StoreId, ...}
    StoreId{1: kind (1 recording, 2 blueprint), 2: recording_id, 3: ApplicationId{1: id} (from 0.25 on)}
"""

from __future__ import annotations

from typing import NamedTuple

from daemon.wire.protobuf import fields, uvarint
from daemon.wire.rrd import Kind

PEEK = 1024
"""Bytes of a payload that hold its store id: a few ids of ordinary length."""

RECORDING = 1
BLUEPRINT = 2


class StoreId(NamedTuple):
    """Whose a frame is. `application_id` is empty where the SDK did not write it there (before 0.25)."""

    kind: int
    recording_id: str
    application_id: str


class StoreInfo(NamedTuple):
    """What a SetStoreInfo frame says. `version` is the SDK's (major, minor, patch), or None."""

    store: StoreId
    version: tuple[int, int, int] | None


def peek_store_id(kind: int, prefix: bytes | memoryview) -> bytes | None:
    """The raw StoreId message of a frame, from the first bytes of its payload.

    Args:
        kind: The frame's kind.
        prefix: At least the first PEEK bytes of the payload, or all of it.

    Returns:
        The bytes of the StoreId message; None if there is none, or not within the prefix.
    """
    try:
        if kind == Kind.STORE_INFO:
            return _find(prefix, (2, 2))
        if kind in (Kind.ARROW, Kind.ACTIVATION):
            if len(prefix) > 2 and prefix[0] == 0x0A and prefix[1] < 0x80:  # field 1, first and short: every SDK
                end = 2 + prefix[1]
                return bytes(prefix[2:end]) if end <= len(prefix) else None
            return _find(prefix, (1,))
    except (ValueError, IndexError):
        return None
    return None


def _find(data: bytes | memoryview, path: tuple[int, ...]) -> bytes | None:
    """The first length-delimited field at `path`, reading no further than needed."""
    at = 0
    while at < len(data):
        key, at = uvarint(data, at)
        wire = key & 7
        if wire == 0:
            _, at = uvarint(data, at)
        elif wire == 1:
            at += 8
        elif wire == 5:
            at += 4
        elif wire == 2:
            length, at = uvarint(data, at)
            if key >> 3 == path[0]:
                if len(path) > 1:
                    return _find(data[at : at + length], path[1:])
                return bytes(data[at : at + length]) if at + length <= len(data) else None
            at += length
        else:
            return None
    return None


def parse_store_id(raw: bytes | memoryview) -> StoreId:
    """Read a StoreId message.

    Raises:
        ValueError: it is none.
    """
    kind, recording, application = 0, "", ""
    for number, _, value in fields(raw):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number == 2 and not isinstance(value, int):
            recording = bytes(value).decode()
        elif number == 3 and not isinstance(value, int):
            application = _application_id(value)
    return StoreId(kind, recording, application)


def _application_id(raw: bytes | memoryview) -> str:
    for number, _, value in fields(raw):
        if number == 1 and not isinstance(value, int):
            return bytes(value).decode()
    return ""


def parse_store_info(payload: bytes | memoryview) -> StoreInfo:
    """Read a SetStoreInfo frame's payload.

    Raises:
        ValueError: it is none.
    """
    store, application, version = StoreId(0, "", ""), "", None
    for number, _, info in fields(payload):
        if number != 2 or isinstance(info, int):
            continue
        for inner, _, value in fields(info):
            if isinstance(value, int):
                continue
            if inner == 1:
                application = _application_id(value)
            elif inner == 2:
                store = parse_store_id(value)
            elif inner == 6:
                for field, _, bits in fields(value):
                    # Little-endian, these are the four version bytes of the file header: 0x00002900 is 0.41.0.
                    if field == 1 and isinstance(bits, int):
                        version = (bits & 0xFF, bits >> 8 & 0xFF, bits >> 16 & 0xFF)
    if not store.application_id:
        store = store._replace(application_id=application)
    return StoreInfo(store, version)
