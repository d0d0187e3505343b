// Just so much of Rerun's C++ SDK, declared after it, that what the documentation shows compiles where it is not
// installed. Nothing is linked with this.
#pragma once

#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace rerun {
    struct Error {
        std::string description;
        bool is_ok() const;
    };

    class RecordingStream {
      public:
        explicit RecordingStream(std::string_view app_id, std::string_view recording_id = {});
        RecordingStream(const RecordingStream&) = delete;
        ~RecordingStream();

        bool is_enabled() const;
        Error save(std::string_view path) const;
        Error to_stdout() const;
        Error flush_blocking(float timeout_sec = std::numeric_limits<float>::infinity()) const;
        void set_time_sequence(std::string_view timeline, int64_t value) const;

        template <typename... Ts>
        void log(std::string_view, const Ts&...) const {}
    };

    struct TextLog {
        explicit TextLog(std::string_view text);
    };

    struct Position3D {
        Position3D(float x, float y, float z);
    };

    struct Points3D {
        explicit Points3D(const std::vector<Position3D>& positions);
    };
} // namespace rerun
