"""A program like Rerun's own examples: nothing of it knows of the daemon, but for its import."""

from __future__ import annotations

import argparse

import numpy as np
import rerun.blueprint as rrb

import rrd as rr

DESCRIPTION = "# A cube of points\nThat turns."


def log_cube(steps: int) -> None:
    rr.log("description", rr.TextDocument(DESCRIPTION, media_type=rr.MediaType.MARKDOWN), static=True)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 5)] * 3), -1).reshape(-1, 3)
    for step in range(steps):
        angle = step / 10
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        rr.set_time("frame", sequence=step)
        rr.log("cube", rr.Points3D(grid @ turn.T))
        rr.log("row", rr.TextLog(f"row {step}"))


def main() -> None:
    parser = argparse.ArgumentParser(description="A cube of points that turns.")
    parser.add_argument("--steps", type=int, default=50)
    rr.script_add_args(parser)
    args = parser.parse_args()
    blueprint = rrb.Blueprint(rrb.TextLogView(origin="/"))
    rr.script_setup(args, "rerun_example_cube", default_blueprint=blueprint)
    log_cube(args.steps)
    rr.script_teardown(args)


if __name__ == "__main__":
    main()
