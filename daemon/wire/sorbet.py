"""What a chunk's Arrow schema says: its entity, its timelines, its components. Sans-IO.

Rerun calls the rules for that metadata "Sorbet" and numbers them (`sorbet:version`). A reader brings older chunks up
to its own version as it reads them, and goes by the footer for what it has not read; so a footer speaks of every chunk
as the newest version would, whatever the chunk itself says. That migration is one of names, done by `_migrate`:

    none    0.23            `rerun.` keys, indicator columns, tagged components     rewired
    0.1.0   0.24 to 0.25    indicator columns                                       dropped
    0.1.1   0.26 to 0.27    Pose* components, Transform3D:axis_length, CoordinateFrame:frame_id   renamed
    0.1.2   0.28 to 0.30    SeriesVisible                                           renamed
    0.1.3, 0.1.4            as it is

Rules: nothing is guessed; a version that is not in this table raises UnknownChunkError. Columns are told by their
place in the record batch's own lists of nodes and buffers, so that values can be found without decoding anything.
Source: re_sorbet/src/migrations and re_sorbet/src/*_column_descriptor.rs of Rerun 0.36; 0.1.4 by comparison with 0.41.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
from pyarrow import types

VERSIONS = ("0.1.0", "0.1.1", "0.1.2", "0.1.3", "0.1.4")
"""Versions that a chunk may name. One without any is of SDK 0.23."""

UNVERSIONED = "0.0.1"

PROPERTIES = "/__properties"
CLEAR_IS_RECURSIVE = ("rerun.archetypes.Clear", "Clear:is_recursive", "rerun.components.ClearIsRecursive")
"""The only descriptor that makes a column a tombstone."""

_RENAMED_TYPES = {
    f"rerun.components.Pose{name}": f"rerun.components.{name}"
    for name in ("Translation3D", "RotationAxisAngle", "RotationQuat", "Scale3D", "TransformMat3x3")
}
_RENAMED_ARCHETYPES = {
    "rerun.archetypes.Scalar": ("rerun.archetypes.Scalars", {"scalar": "scalars"}),
    "rerun.archetypes.SeriesLine": (
        "rerun.archetypes.SeriesLines",
        {"color": "colors", "width": "widths", "name": "names"},
    ),
    "rerun.archetypes.SeriesPoint": (
        "rerun.archetypes.SeriesPoints",
        {"color": "colors", "marker": "markers", "name": "names", "marker_size": "marker_sizes"},
    ),
}

Metadata = dict[str, str]


class UnsupportedChunkError(ValueError):
    """A chunk is whole and well, but not of a kind that a footer can be made for here."""


class UnknownChunkError(UnsupportedChunkError):
    """It is of a kind that no SDK known here writes: of a newer one, or damaged."""


class Descriptor(NamedTuple):
    """What names a component of an entity."""

    archetype: str | None
    component: str
    type: str | None

    @property
    def order(self) -> tuple[bool, bytes, bytes, bool, bytes]:
        """Sort key: by archetype, component and type, a missing one first, as Rerun's `Ord` has it."""
        return (
            self.archetype is not None,
            (self.archetype or "").encode(),
            self.component.encode(),
            self.type is not None,
            (self.type or "").encode(),
        )

    def column(self, prefix: str | None, suffix: str) -> str:
        """Name of a footer's column for this component, on a timeline called `prefix`."""
        parts = [prefix]
        field = self.component
        if self.archetype is not None:
            short = self.archetype
            for start in ("rerun.archetypes.", "rerun.blueprint.archetypes.", "rerun."):
                if short.startswith(start):
                    short = short[len(start) :]
                    break
            parts.append(short)
            field = field.removeprefix(short + ":")
        return column_name(*parts, field, suffix)


def column_name(*parts: str | None) -> str:
    """Join parts to a footer's column name, with the characters replaced that Rerun replaces there."""
    name = ":".join(part for part in parts if part)
    for character in ", -.\\":
        name = name.replace(character, "_")
    return name.lstrip("_")


class TimeColumn(NamedTuple):
    """A timeline of a chunk. `node` and `buffer` are its first ones in the record batch's lists."""

    name: str
    type: pa.DataType
    sorted: bool
    node: int
    buffer: int


class ComponentColumn(NamedTuple):
    """A component of a chunk: always a list column. `node` and `buffer` as in TimeColumn."""

    descriptor: Descriptor
    type: pa.DataType
    node: int
    buffer: int
    is_plain: bool
    """Its values are numbers of a fixed size, of which any bits will do."""


@dataclass(frozen=True, slots=True)
class ChunkSchema:
    """A chunk's schema as the newest Sorbet version has it."""

    entity_path: str
    chunk_id: bytes
    version: str
    times: tuple[TimeColumn, ...]
    components: tuple[ComponentColumn, ...]
    nodes: int
    buffers: int

    @property
    def is_static(self) -> bool:
        """Static chunks have no timelines."""
        return not self.times

    @property
    def column_prefix(self) -> str:
        """What comes before the component in the name of a dataframe's column of this entity."""
        if self.entity_path == PROPERTIES:
            return "property"
        if self.entity_path.startswith(PROPERTIES + "/"):
            return "property:" + self.entity_path[len(PROPERTIES) + 1 :]
        return self.entity_path


def _text(metadata: Mapping[bytes, bytes] | None) -> Metadata:
    return {key.decode(): value.decode() for key, value in (metadata or {}).items()}


def _check_text(field: pa.Field) -> None:
    """See that a field can go into a footer's schema.

    Raises:
        UnicodeDecodeError: its name or its metadata is no text.
    """
    _text({field.name.encode(): b"", **(field.metadata or {})})


def _is_true(value: str | None) -> bool:
    return value is not None and value.lower() not in ("false", "no")


def parse_chunk_schema(schema: pa.Schema) -> ChunkSchema:
    """Read a chunk's schema.

    Raises:
        UnsupportedChunkError: its Sorbet version or one of its columns is of no known kind.
        ValueError: it is no chunk's: something that every chunk has is missing.
    """
    metadata = _text(schema.metadata)
    version = metadata.get("sorbet:version")
    if version is None:
        if "rerun.entity_path" not in metadata:
            raise UnknownChunkError("a chunk without a Sorbet version")
        version = UNVERSIONED
    elif version not in VERSIONS:
        raise UnknownChunkError(f"a chunk of Sorbet version {version}, newer than this program")
    metadata = {key.replace("rerun.", "rerun:", 1): value for key, value in metadata.items()}
    entity_path, chunk_id = metadata.get("rerun:entity_path"), metadata.get("rerun:id", "")
    if entity_path is None or not chunk_id.startswith("chunk_") or len(chunk_id) != 38:
        raise ValueError("a chunk without entity path or id")
    if version == UNVERSIONED and entity_path == f"{PROPERTIES}/recording":
        entity_path = PROPERTIES
    times: list[TimeColumn] = []
    components: list[ComponentColumn] = []
    node = buffer = 0
    for field in schema:
        found = _migrate(version, field.name, _text(field.metadata))
        if found is not None:
            kind = found.get("rerun:kind", "data")
            if kind in ("index", "time"):
                if not (types.is_int64(field.type) or field.type in _TIME_TYPES):
                    raise UnknownChunkError(f"a timeline of type {field.type}")
                name = found.get("rerun:index_name", field.name)
                times.append(TimeColumn(name, field.type, _is_true(found.get("rerun:is_sorted")), node, buffer))
            elif kind in ("data", "component"):
                if not types.is_list(field.type):
                    raise UnknownChunkError(f"a component of type {field.type}")
                descriptor = Descriptor(
                    found.get("rerun:archetype") or None,
                    found.get("rerun:component") or field.name,
                    found.get("rerun:component_type") or None,
                )
                is_plain = _is_plain(field.type.value_type)
                components.append(ComponentColumn(descriptor, field.type, node, buffer, is_plain))
            elif kind not in ("control", "row_id"):
                raise UnknownChunkError(f"a column of kind {kind}")
        buffers, nodes = _extent(field.type)
        node += nodes
        buffer += buffers
    identity = bytes.fromhex(chunk_id[6:])
    return ChunkSchema(entity_path, identity, version, tuple(times), tuple(components), node, buffer)


_TIME_TYPES = (pa.timestamp("ns"), pa.duration("ns"))


def _migrate(version: str, name: str, metadata: Metadata) -> Metadata | None:
    """A field's metadata as the newest version has it; None where that has no such column."""
    if version == UNVERSIONED:
        metadata = _rewire(name, metadata)
    if version <= "0.1.0":
        indicator = metadata.get("rerun:is_indicator")
        if indicator == "true":
            return None
        component = metadata.get("rerun:component", "")
        if indicator is None and component.startswith("rerun.components.") and component.endswith("Indicator"):
            return None
    if version <= "0.1.1":
        if metadata.get("rerun:component_type") in _RENAMED_TYPES:
            metadata["rerun:component_type"] = _RENAMED_TYPES[metadata["rerun:component_type"]]
        if metadata.get("rerun:component") == "Transform3D:axis_length":
            metadata["rerun:archetype"] = "rerun.archetypes.TransformAxes3D"
            metadata["rerun:component"] = "TransformAxes3D:axis_length"
        elif metadata.get("rerun:component") == "CoordinateFrame:frame_id":
            metadata["rerun:component"] = "CoordinateFrame:frame"
    if version <= "0.1.2" and metadata.get("rerun:component_type") == "rerun.components.SeriesVisible":
        metadata["rerun:component_type"] = "rerun.components.Visible"
    return metadata


def _rewire(name: str, old: Metadata) -> Metadata:
    """SDK 0.23: from tagged components (`rerun.archetype_field`) to component identifiers."""
    tags = ("rerun.archetype", "rerun.archetype_field", "rerun.component")
    new = {key.replace("rerun.", "rerun:", 1): value for key, value in old.items() if key not in tags}
    archetype, field, component = (old.get(tag) for tag in tags)
    if archetype in _RENAMED_ARCHETYPES:
        archetype, fields = _RENAMED_ARCHETYPES[archetype]
        field = fields.get(field, field) if field is not None else None
    if name.endswith("Indicator"):
        new["rerun:component"] = component or (name if name.startswith("rerun.") else f"rerun.components.{name}")
    elif component is not None:
        kind: str | None = component
        if field is None and (archetype is None or component.endswith("Indicator")):
            archetype = kind = None
        elif field is not None:
            component = field
            if archetype is not None:
                short = archetype.strip().removeprefix("rerun.archetypes.").removeprefix("rerun.blueprint.archetypes.")
                component = f"{short}:{field}"
        if archetype is not None:
            new["rerun:archetype"] = archetype
        new["rerun:component"] = component
        if kind is not None:
            new["rerun:component_type"] = kind
    return {key: value.replace("RecordingProperties", "RecordingInfo") for key, value in new.items()}


def _is_plain(kind: pa.DataType) -> bool:
    if types.is_fixed_size_list(kind) or types.is_struct(kind):
        return all(_is_plain(kind.field(i).type) for i in range(kind.num_fields))
    return bool(types.is_integer(kind) or types.is_floating(kind))


def _extent(kind: pa.DataType) -> tuple[int, int]:
    """How many buffers and field nodes a column of this type has in a record batch, its children included.

    Raises:
        UnsupportedChunkError: a type whose layout is not fixed by the schema alone.
        UnicodeDecodeError: a child's name or metadata is no text.
    """
    if any(is_type(kind) for is_type in _VARIABLE_LAYOUTS):
        raise UnsupportedChunkError(f"a column of type {kind}")
    if types.is_null(kind):
        return 0, 1
    if types.is_nested(kind):
        if types.is_union(kind):
            buffers = 1 if kind.mode == "sparse" else 2
        elif types.is_struct(kind) or types.is_fixed_size_list(kind):
            buffers = 1
        else:
            buffers = 2
        nodes = 1
        for i in range(kind.num_fields):
            child = kind.field(i)
            _check_text(child)
            more_buffers, more_nodes = _extent(child.type)
            buffers += more_buffers
            nodes += more_nodes
        return buffers, nodes
    return (3 if any(is_type(kind) for is_type in _WITH_OFFSETS) else 2), 1


_WITH_OFFSETS = (types.is_string, types.is_binary, types.is_large_string, types.is_large_binary)
_VARIABLE_LAYOUTS = (
    types.is_dictionary,
    types.is_run_end_encoded,
    types.is_string_view,
    types.is_binary_view,
    types.is_list_view,
    types.is_large_list_view,
)
