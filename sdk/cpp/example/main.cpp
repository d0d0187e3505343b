// A program that logs a growing spiral, and takes the flags of rrd: --save PATH, --spawn, --connect [URL], --serve, ...
#include <rerun.hpp>
#include <rrd.hpp>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <string_view>
#include <thread>
#include <vector>

int main(int argc, char** argv) {
    const auto args = rrd::Args::parse(argc, argv).value_or_exit();
    if (argc > 1) {
        std::fprintf(stderr, "usage: %s [flags]\n%s", argv[0], rrd::Args::help());
        return std::string_view(argv[1]) == "--help" ? 0 : 2;
    }
    const rerun::RecordingStream rec("rrd_example_spiral");
    args.apply(rec).value_or_exit();
    std::vector<rerun::Position3D> points;
    for (int step = 0; step < 200; ++step) {
        const float angle = static_cast<float>(step) * 0.1f;
        points.emplace_back(std::cos(angle), std::sin(angle), angle * 0.1f);
        rec.set_time_sequence("step", step);
        rec.log("spiral", rerun::Points3D(points));
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    rrd::flush(rec, true).handle(); // all of it is in the files, fsynced
    return 0;
}
