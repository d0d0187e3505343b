"""Chunk schemas: what old SDKs called things, and where columns stand in a record batch."""

from __future__ import annotations

import pyarrow as pa
import pytest

from daemon.wire.sorbet import (
    ChunkSchema,
    Descriptor,
    UnknownChunkError,
    UnsupportedChunkError,
    column_name,
    parse_chunk_schema,
)

ID = "chunk_00000000000018010000000000000001"
LIST = pa.list_(pa.float64())


def parsed(version: str | None, *columns: tuple[str, dict[str, str]], entity: str = "/e") -> ChunkSchema:
    """The schema of a chunk with these list columns. Without a version: of SDK 0.23, whose keys have dots."""
    start = "rerun." if version is None else "rerun:"
    top = {start + "entity_path": entity, start + "id": ID}
    if version is not None:
        top["sorbet:version"] = version
    fields = [pa.field(name, LIST, metadata={start + k: v for k, v in known.items()}) for name, known in columns]
    return parse_chunk_schema(pa.schema(fields, metadata=top))


def descriptors(version: str | None, *columns: tuple[str, dict[str, str]]) -> list[Descriptor]:
    return [component.descriptor for component in parsed(version, *columns).components]


def old(archetype: str, field: str, component: str) -> tuple[str, dict[str, str]]:
    return component, {"archetype": archetype, "archetype_field": field, "component": f"rerun.components.{component}"}


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (
            old("rerun.archetypes.Points3D", "colors", "Color"),
            Descriptor("rerun.archetypes.Points3D", "Points3D:colors", "rerun.components.Color"),
        ),
        (
            old("rerun.archetypes.Scalar", "scalar", "Scalar"),
            Descriptor("rerun.archetypes.Scalars", "Scalars:scalars", "rerun.components.Scalar"),
        ),
        (
            old("rerun.archetypes.SeriesPoint", "marker_size", "MarkerSize"),
            Descriptor("rerun.archetypes.SeriesPoints", "SeriesPoints:marker_sizes", "rerun.components.MarkerSize"),
        ),
        (
            old("rerun.archetypes.RecordingProperties", "name", "Name"),
            Descriptor("rerun.archetypes.RecordingInfo", "RecordingInfo:name", "rerun.components.Name"),
        ),
        (
            old("rerun.blueprint.archetypes.ViewContents", "query", "QueryExpression"),
            Descriptor("rerun.blueprint.archetypes.ViewContents", "ViewContents:query",
                       "rerun.components.QueryExpression"),
        ),
        (("confidence", {"component": "confidence"}), Descriptor(None, "confidence", None)),
        (("x", {"component": "X", "archetype_field": "y"}), Descriptor(None, "y", "X")),
        (("x", {"component": "X", "archetype": "A"}), Descriptor("A", "X", "X")),
        (
            old("rerun.archetypes.Transform3D", "axis_length", "AxisLength"),
            Descriptor("rerun.archetypes.TransformAxes3D", "TransformAxes3D:axis_length",
                       "rerun.components.AxisLength"),
        ),
    ],
)
def test_components_of_sdk_0_23(column: tuple[str, dict[str, str]], expected: Descriptor) -> None:
    assert descriptors(None, column) == [expected]


@pytest.mark.parametrize("version", [None, "0.1.0"])
def test_indicators_are_dropped(version: str | None) -> None:
    indicator = ("Points3DIndicator", {"component": "rerun.components.Points3DIndicator"})
    flagged = ("other", {"component": "x", "is_indicator": "true"})
    schema = parsed(version, indicator, ("kept", {"component": "kept"}), flagged)
    assert [c.descriptor.component for c in schema.components] == ["kept"]
    assert (schema.components[0].node, schema.nodes) == (2, 6), "they still have their place in the record batch"
    assert len(parsed("0.1.1", indicator).components) == 1


def test_recording_properties_move() -> None:
    assert parsed(None, entity="/__properties/recording").entity_path == "/__properties"
    assert parsed("0.1.4", entity="/__properties/recording").entity_path == "/__properties/recording"


@pytest.mark.parametrize("version", ["0.1.0", "0.1.1", "0.1.2", "0.1.3", "0.1.4"])
def test_renames_end_with_the_version_that_made_them(version: str) -> None:
    found = descriptors(
        version,
        ("a", {"component": "Transform3D:axis_length", "archetype": "rerun.archetypes.Transform3D"}),
        ("b", {"component": "CoordinateFrame:frame_id"}),
        ("c", {"component": "c", "component_type": "rerun.components.PoseScale3D"}),
        ("d", {"component": "d", "component_type": "rerun.components.SeriesVisible"}),
    )
    early, visible = version <= "0.1.1", version <= "0.1.2"
    assert found[0].component == ("TransformAxes3D:axis_length" if early else "Transform3D:axis_length")
    assert found[1].component == ("CoordinateFrame:frame" if early else "CoordinateFrame:frame_id")
    assert found[2].type == ("rerun.components.Scale3D" if early else "rerun.components.PoseScale3D")
    assert found[3].type == ("rerun.components.Visible" if visible else "rerun.components.SeriesVisible")


@pytest.mark.parametrize("version", ["0.1.5", "0.2.0", "1.0.0", "", "x"])
def test_other_versions_are_unknown(version: str) -> None:
    with pytest.raises(UnknownChunkError):
        parsed(version)


def test_places_agree_with_the_record_batch_itself() -> None:
    """Nodes and buffers counted from the schema are those that Arrow writes."""
    types = [
        pa.null(), pa.bool_(), pa.int64(), pa.string(), pa.large_binary(), pa.binary(4), pa.list_(pa.string()),
        pa.large_list(pa.int8()), pa.list_(pa.float32(), 3), pa.map_(pa.string(), pa.int32()),
        pa.struct([("a", pa.string()), ("b", pa.null())]), pa.struct([]),
        pa.dense_union([pa.field("x", pa.int8()), pa.field("y", pa.string())]),
        pa.sparse_union([pa.field("x", pa.int8()), pa.field("y", pa.string())]),
    ]  # fmt: skip
    from daemon.wire.chunk import ArrowMsg, Ipc, parse_record_batch, schema_end

    metadata = {"rerun:entity_path": "/e", "rerun:id": ID, "sorbet:version": "0.1.4"}
    for kind in types:
        schema = pa.schema([pa.field("c", pa.list_(kind))], metadata=metadata)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_batch(pa.record_batch([pa.nulls(0, pa.list_(kind))], schema=schema))
        data = sink.getvalue().to_pybytes()
        ipc = Ipc(data, ArrowMsg(b"", 1, len(data), 0, len(data), None))
        batch = parse_record_batch(ipc, schema_end(ipc))
        found = parse_chunk_schema(schema)
        assert (found.nodes, found.buffers) == (batch.node_count, batch.buffer_count), kind


@pytest.mark.parametrize(
    "kind",
    [pa.dictionary(pa.int8(), pa.string()), pa.string_view(), pa.binary_view(), pa.list_view(pa.int8()),
     pa.large_list_view(pa.int8()), pa.run_end_encoded(pa.int32(), pa.int8())],
)  # fmt: skip
def test_layouts_that_a_schema_does_not_tell(kind: pa.DataType) -> None:
    metadata = {"rerun:entity_path": "/e", "rerun:id": ID, "sorbet:version": "0.1.4"}
    with pytest.raises(UnsupportedChunkError, match="a column of type"):
        parse_chunk_schema(pa.schema([pa.field("c", pa.list_(kind))], metadata=metadata))


@pytest.mark.parametrize("missing", ["rerun:entity_path", "rerun:id"])
def test_what_every_chunk_has(missing: str) -> None:
    metadata = {"rerun:entity_path": "/e", "rerun:id": ID, "sorbet:version": "0.1.4"}
    del metadata[missing]
    with pytest.raises(ValueError, match="without entity path or id"):
        parse_chunk_schema(pa.schema([], metadata=metadata))


@pytest.mark.parametrize(
    ("descriptor", "prefix", "name"),
    [
        (Descriptor("rerun.archetypes.Points3D", "Points3D:colors", None), "frame", "frame:Points3D:colors:start"),
        (Descriptor("rerun.blueprint.archetypes.A", "A:b", None), None, "A:b:start"),
        (Descriptor("mine.Thing", "other", None), "t", "t:mine_Thing:other:start"),
        (Descriptor(None, "rerun.components.Foo", None), "a b", "a_b:rerun_components_Foo:start"),
        (Descriptor(None, "x", None), "__t", "t:x:start"),
    ],
)
def test_column_names(descriptor: Descriptor, prefix: str | None, name: str) -> None:
    assert descriptor.column(prefix, "start") == name


def test_missing_parts_leave_no_colon() -> None:
    assert column_name(None, "a", "", "b") == "a:b"
