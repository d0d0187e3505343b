"""A small real Rerun program: a camera, a point cloud and two scalars, for some seconds. One line makes it rrd's.

    python examples/walk.py [--seconds 4] [--save walk.rrd]
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import rerun as rr

import rrd

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seconds", type=float, default=4.0)
parser.add_argument("--save", default="", help="an output chosen from the start")
args = parser.parse_args()

rr.init("rrd_demo_walk")
# The one line: without a path the daemon buffers, and outputs are added when somebody wants them.
if args.save:
    rrd.save(args.save, force=True)
else:
    rrd.attach()

random = np.random.default_rng(7)
cloud = random.normal(size=(2_000, 3)).astype(np.float32)
rr.log("world", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
rr.log("room", rr.Boxes3D(half_sizes=[4.0, 4.0, 2.0]), static=True)
begin = time.monotonic()
step = 0
while time.monotonic() - begin < args.seconds:
    angle = step / 15
    rr.set_time("step", sequence=step)
    centre = np.array([math.cos(angle), math.sin(angle), 0.0], np.float32)
    rr.log("world/points", rr.Points3D(cloud + centre, radii=0.02))
    picture = np.zeros((120, 160, 3), np.uint8)
    picture[:, (step * 3) % 160, 1] = 255
    rr.log("camera", rr.Image(picture))
    rr.log("speed/left", rr.Scalars(math.sin(angle)))
    rr.log("speed/right", rr.Scalars(math.cos(angle)))
    step += 1
    time.sleep(1 / 30)
print(f"walk.py: logged {step} steps")
