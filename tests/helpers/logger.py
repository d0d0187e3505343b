"""A program that logs: run with the python of any rerun-sdk from 0.23 on, as `python logger.py WHAT PATH`.

It imports nothing of ours. What an old SDK does not have is left out there.
"""

from __future__ import annotations

import datetime
import sys

import numpy as np
import rerun as rr

try:
    import rerun.blueprint as rrb
except ImportError:
    rrb = None


def sequence(number: int, name: str = "frame") -> None:
    rr.set_time(name, sequence=number)


def small() -> None:
    """A few chunks of each sort; checked in for every SDK as tests/data/rrd/<version>.rrd."""
    rr.log("world", rr.TextDocument("static"), static=True)
    for i in range(5):
        sequence(i)
        rr.log("world/points", rr.Points3D([[1, 2, 3], [3, 4, i]], colors=[255, 0, 0]))
        rr.log("world/speed", rr.Scalars(i))
    rr.log("world/points", rr.Clear(recursive=False))


def rich() -> None:
    """What there is: timelines of all types, unsorted, negative; sparse and empty columns; odd names; big payloads."""
    small()
    for i in (5, 3, -9, 3, 12):
        sequence(i)
        sequence(-i, "an, odd-name.x\\y")
        rr.set_time("lap", duration=i * 0.25)
        rr.set_time("stamp", timestamp=datetime.datetime(2026, 1, 2, 3, 4, 5) + datetime.timedelta(seconds=i))
        rr.log("unsorted", rr.Scalars(float(i)))
        rr.log("/a name/with spaces, and. dots/äß", rr.AnyValues(foo=[1.0, 2.0], bar="text", drop_untyped_nones=True))
        rr.log("unsorted", rr.AnyValues(sometimes=i) if i == 3 else rr.Scalars(2.5))
        rr.reset_time()
    sequence(7)
    rr.log("image", rr.Image((np.arange(120 * 160 * 3) % 251).astype(np.uint8).reshape(120, 160, 3)))
    noise = np.random.default_rng(1).integers(0, 255, (90, 90, 3), dtype=np.uint8)
    rr.log("noise", rr.Image(noise))
    rr.log("noise/annotation", rr.AnnotationContext([(1, "red", (255, 0, 0)), (2, "green", (0, 255, 0))]), static=True)
    rr.log("many", rr.Points3D(np.zeros((4000, 3)), radii=np.ones(4000)))
    rr.log("pose", rr.InstancePoses3D(translations=[[1, 2, 3]], scales=[[1, 1, 1]]))
    rr.log("frame", rr.Transform3D(translation=[1, 2, 3]), rr.Boxes2D(mins=[1, 1], sizes=[2, 2]))
    rr.log("log", rr.TextLog("a line", level="INFO"))
    rr.log("line", rr.SeriesLines(names="l", colors=[255, 0, 0]), static=True)
    rr.log("empty", rr.Points3D([]))
    rr.log("both", rr.Scalars(1.0), static=True)
    rr.log("both", rr.Scalars(2.0))
    rr.log("world", rr.Clear(recursive=True))
    columns = [rr.TimeColumn("frame", sequence=[1, 2, 3, 4]), rr.TimeColumn("lap", duration=[4.0, 3.0, 2.0, 1.0])]
    rr.send_columns("columns", indexes=columns, columns=rr.Scalars.columns(scalars=[1.0, 2.0, 3.0, 4.0]))
    rr.send_columns(
        "ragged",
        indexes=columns,
        columns=rr.Points3D.columns(positions=np.ones((4, 3))).partition([0, 3, 0, 1]),
    )
    sequence(2**40, "frame")
    for i in range(40):
        # One long sparse chunk: two descriptors that take turns.
        sequence(i, "alternating")
        rr.log("turns", rr.Scalars(i) if i % 3 else rr.TextLog(str(i)))
    if hasattr(rr, "send_property"):
        rr.send_property("of_mine", rr.AnyValues(key="value"))
    if hasattr(rr, "send_recording_name"):
        rr.send_recording_name("a name")


def types() -> None:
    """Components of every Arrow type that a list column can have."""
    import pyarrow as pa

    values = {
        "i8": pa.array([1], pa.int8()), "u16": pa.array([1], pa.uint16()), "u64": pa.array([1], pa.uint64()),
        "f16": pa.array(np.array([1.5], np.float16)), "f64": pa.array([1.5]), "flag": pa.array([True]),
        "text": pa.array(["x"]), "large_text": pa.array(["x"], pa.large_string()),
        "blob": pa.array([b"x"], pa.binary()), "large_blob": pa.array([b"x"], pa.large_binary()),
        "fixed": pa.array([b"xyz"], pa.binary(3)), "date": pa.array([1], pa.date32()),
        "date64": pa.array([86400000], pa.date64()), "time32": pa.array([1], pa.time32("s")),
        "time64": pa.array([1], pa.time64("ns")), "stamp": pa.array([1], pa.timestamp("us")),
        "zoned": pa.array([1], pa.timestamp("ms", "UTC")), "length": pa.array([1], pa.duration("s")),
        "list": pa.array([[1, 2]], pa.list_(pa.int32())), "large_list": pa.array([[1]], pa.large_list(pa.int32())),
        "triple": pa.array([[1, 2, 3]], pa.list_(pa.float32(), 3)),
        "struct": pa.array([{"a": 1, "b": ["x"]}]), "nothing": pa.nulls(1),
        "decimal": pa.array([None], pa.decimal128(10, 2)), "decimal256": pa.array([None], pa.decimal256(40, 3)),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int32())),
        "interval": pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
    }
    for name, array in values.items():
        sequence(len(name))
        rr.log(f"typed/{name}", rr.AnyValues(**{name: array}))


def blueprint() -> None:
    small()
    rr.send_blueprint(rrb.Blueprint(rrb.Spatial3DView(origin="/world"), rrb.TimeSeriesView(), collapse_panels=True))
    sequence(99)
    rr.log("after", rr.Scalars(1.0))


def micro() -> None:
    """Many chunks of few shapes."""
    for i in range(300):
        sequence(i)
        rr.log(f"joint/{i % 7}", rr.Scalars(i * 0.5))
        if i % 50 == 0:
            rr.log("text", rr.TextLog("x" * (i + 1)))


def forever() -> None:
    """Logs until it is killed."""
    i = 0
    while True:
        sequence(i)
        rr.log("world/points", rr.Points3D(np.full((200, 3), i)))
        i += 1


def empty() -> None:
    """Nothing at all."""


def main() -> None:
    what, path = sys.argv[1:3]
    options = {"send_properties": False} if what == "empty" and "send_properties" in rr.init.__doc__ else {}
    rr.init("app_logger", recording_id=f"rec_{what}", **options)
    rr.save(path)
    {"small": small, "rich": rich, "types": types, "blueprint": blueprint, "micro": micro, "forever": forever,
     "empty": empty}[what]()
    rr.disconnect()


main()
