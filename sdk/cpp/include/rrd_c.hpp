// rrd.hpp for streams of Rerun's C API (and thereby of whatever is built on it).
//
//     rrd::save(rrd::c_stream(stream, "my_app", "run-17"), "run.rrd");
//
// Needs Rerun's own rerun.h: as <rerun/c/rerun.h>, or included before this file.
#pragma once

#ifndef RERUN_H
#include <rerun/c/rerun.h>
#endif

#include <limits>

#include "rrd.hpp"

namespace rrd {
    /// A stream of the C API. The ids are for people, who see them in `rrd ls` before the first message; they may be empty.
    struct CStream {
        rr_recording_stream id = 0;
        std::string application_id;
        std::string recording_id;
    };

    inline CStream c_stream(rr_recording_stream id, std::string application_id = "", std::string recording_id = "") {
        return {id, std::move(application_id), std::move(recording_id)};
    }

    template <>
    struct RecordingTraits<CStream> {
        static detail::Identity identity(const CStream& rec) {
            rr_error error{};
            if (!rr_recording_stream_is_enabled(rec.id, &error)) {
                return {};
            }
            const std::string sdk = std::string("rerun-sdk ") + rr_version_string() + " (c)";
            return {"number " + std::to_string(rec.id), rec.application_id, rec.recording_id, sdk};
        }

        static Error save(const CStream& rec, const std::string& path) {
            rr_error error{};
            rr_recording_stream_save(rec.id, {path.data(), static_cast<std::uint32_t>(path.size())}, &error);
            return error_of(error);
        }

        static Error flush(const CStream& rec) {
            rr_error error{};
            rr_recording_stream_flush_blocking(rec.id, std::numeric_limits<float>::infinity(), &error);
            return error_of(error);
        }

        static Error to_stdout(const CStream& rec) {
            rr_error error{};
            rr_recording_stream_stdout(rec.id, &error);
            return error_of(error);
        }

      private:
        static Error error_of(const rr_error& error) {
            return error.code == 0 ? Error{} : Error{"sdk", error.description, ""};
        }
    };
} // namespace rrd
