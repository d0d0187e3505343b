// A program that logs, and does what it is told to: one command a line on stdin, one answer a line on stdout.
// The commands are described in tests/sdk/rust/src/main.rs, which is the same program in Rust. Its recording has the
// methods of rerun::RecordingStream that rrd.hpp uses, on Rerun's C API.
#include <rerun/c/rerun.h>

#include <chrono>
#include <cstdint>
#include <iostream>
#include <limits>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "rrd.hpp"
#include "rrd_c.hpp"

namespace {
    rr_string view(std::string_view text) {
        return {text.data(), static_cast<uint32_t>(text.size())};
    }

    /// As rerun::Error: what went wrong, or nothing.
    struct Status {
        std::string description;

        bool is_ok() const {
            return description.empty();
        }

        static Status of(const rr_error& error) {
            return {error.code == 0 ? "" : error.description};
        }
    };

    /// One text as an Arrow array: the buffers are validity (none), offsets and bytes.
    ArrowArray array_of(const std::string& text) {
        struct Owned {
            std::string text;
            int32_t offsets[2];
            const void* buffers[3];
        };
        auto* owned = new Owned{text, {0, static_cast<int32_t>(text.size())}, {}};
        owned->buffers[1] = owned->offsets;
        owned->buffers[2] = owned->text.data();
        const auto release = [](ArrowArray* array) {
            delete static_cast<Owned*>(array->private_data);
            array->release = nullptr;
        };
        return {1, 0, 0, 3, 0, owned->buffers, nullptr, nullptr, release, owned};
    }

    rr_component_type_handle text_type() {
        static const rr_component_type_handle handle = [] {
            const auto release = [](ArrowSchema* schema) { schema->release = nullptr; };
            const ArrowSchema schema{"u", "", nullptr, 2, 0, nullptr, nullptr, release, nullptr};
            rr_error error{};
            return rr_register_component_type(
                {{view("rerun.archetypes.TextLog"), view("TextLog:text"), view("rerun.components.Text")}, schema}, &error
            );
        }();
        return handle;
    }

    class Recording {
      public:
        Recording(const std::string& app, const std::string& recording_id) {
            const rr_store_info info{view(app), view(recording_id), 1};
            rr_error error{};
            _id = rr_recording_stream_new(&info, true, true, &error);
        }

        Recording(const Recording&) = delete;
        Recording& operator=(const Recording&) = delete;

        ~Recording() {
            rr_recording_stream_free(_id);
        }

        rr_recording_stream id() const {
            return _id;
        }

        Status save(std::string_view path) const {
            rr_error error{};
            rr_recording_stream_save(_id, view(path), &error);
            return Status::of(error);
        }

        Status to_stdout() const {
            rr_error error{};
            rr_recording_stream_stdout(_id, &error);
            return Status::of(error);
        }

        Status flush_blocking(float seconds = std::numeric_limits<float>::infinity()) const {
            rr_error error{};
            rr_recording_stream_flush_blocking(_id, seconds, &error);
            return Status::of(error);
        }

        /// The C API has no disconnect; another sink ends the stream as well.
        Status connect_nowhere() const {
            rr_error error{};
            rr_recording_stream_connect_grpc(_id, view("rerun+http://127.0.0.1:9/proxy"), 0, &error);
            return Status::of(error);
        }

        Status log(int64_t row) const {
            rr_error error{};
            rr_recording_stream_set_time(_id, view("row"), 1, row, &error);
            rr_component_batch text{text_type(), array_of("row " + std::to_string(row))};
            rr_recording_stream_log(_id, {view("log"), 1, &text}, true, &error);
            return Status::of(error);
        }

      private:
        rr_recording_stream _id;
    };

    struct Own {
        std::string app = "driver";
        std::string recording_id = "one";
        int64_t count = -1;
        bool c_api = false;
    };

    std::string describe(const rrd::Error& error) {
        return error.is_ok() ? "ok" : "error " + error.code + " " + error.description + " (hint: " + error.hint + ")";
    }

    std::string describe(const rrd::Result<rrd::Output>& result) {
        if (result.is_err()) {
            return describe(result.error);
        }
        const auto& output = result.value;
        const auto part = [](const std::string& text) { return " " + (text.empty() ? "-" : text); };
        return output.is_attached() ? "ok" + part(output.stream) + part(output.sink) + part(output.url) : "buffering";
    }

    std::string describe(const Status& status) {
        return status.is_ok() ? "ok" : "error sdk " + status.description;
    }

    /// The verbs, for a recording of either kind.
    template <typename Rec>
    std::string verb(const Rec& rec, const std::vector<std::string>& words) {
        const auto has = [&](const char* word) { return std::find(words.begin(), words.end(), word) != words.end(); };
        const std::string& name = words[0];
        if (name == "attach") {
            return describe(rrd::attach(rec));
        } else if (name == "save") {
            return describe(rrd::save(rec, words.at(1), {has("force"), has("copy")}));
        } else if (name == "spawn") {
            return describe(rrd::spawn(rec));
        } else if (name == "connect") {
            return describe(rrd::connect(rec, words.at(1)));
        } else if (name == "serve") {
            return describe(rrd::serve(rec, {0, "", false}));
        } else if (name == "stdout") {
            return describe(rrd::to_stdout(rec));
        } else if (name == "flush" || name == "durable") {
            return describe(rrd::flush(rec, name == "durable"));
        } else if (name == "detach") {
            return describe(rrd::detach(words.at(1)));
        }
        return "error - no such command: " + name;
    }

    std::string obey(std::unique_ptr<Recording>& rec, const Own& own, int64_t& rows, const std::vector<std::string>& words) {
        if (!rec) {
            return "error - the recording has ended";
        }
        if (words[0] == "log") {
            const auto pause = std::chrono::microseconds(words.size() > 2 ? std::stoll(words[2]) : 0);
            for (int64_t left = std::stoll(words.at(1)); left > 0; --left) {
                if (const auto status = rec->log(rows++); !status.is_ok()) {
                    return describe(status);
                }
                if (pause.count() > 0) {
                    std::this_thread::sleep_for(pause);
                }
            }
            return "ok";
        } else if (words[0] == "disconnect") {
            return describe(rec->connect_nowhere());
        } else if (words[0] == "end") {
            rec.reset();
            return "ok";
        } else if (words[0] == "abort") {
            std::abort();
        }
        return own.c_api ? verb(rrd::c_stream(rec->id(), own.app, own.recording_id), words) : verb(*rec, words);
    }
} // namespace

int main(int argc, char** argv) {
    const auto args = rrd::Args::parse(argc, argv).value_or_exit();
    Own own;
    for (int index = 1; index < argc; ++index) {
        const std::string_view flag = argv[index];
        const bool more = index + 1 < argc;
        if (flag == "--app" && more) {
            own.app = argv[++index];
        } else if (flag == "--recording-id" && more) {
            own.recording_id = argv[++index];
        } else if (flag == "--count" && more) {
            own.count = std::stoll(argv[++index]);
        } else if (flag == "--c-api") {
            own.c_api = true;
        } else {
            std::cerr << "unknown argument: " << flag << "\n" << rrd::Args::help();
            return 2;
        }
    }
    auto rec = std::make_unique<Recording>(own.app, own.recording_id);
    if (own.count >= 0) {
        args.apply(*rec).value_or_exit();
        for (int64_t row = 0; row < own.count; ++row) {
            if (!rec->log(row).is_ok()) {
                return 1;
            }
        }
        return 0;
    }
    int64_t rows = 0;
    std::cout << "ready" << std::endl;
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream stream(line);
        std::vector<std::string> words;
        for (std::string word; stream >> word;) {
            words.push_back(word);
        }
        std::cout << (words.empty() ? "error - nothing said" : obey(rec, own, rows, words)) << std::endl;
    }
    return 0;
}
