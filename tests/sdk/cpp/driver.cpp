// A program that logs, and does what it is told to: one command a line on stdin, one answer a line on stdout.
// The commands are described in tests/sdk/rust/src/main.rs, which is the same program in Rust. With -DWITH_CPP_SDK
// it logs to Rerun's C++ SDK; else its recording has the methods of rerun::RecordingStream that rrd.hpp uses, on the C API.
#ifdef WITH_CPP_SDK
#include <rerun.hpp>
#endif
#include <rerun/c/rerun.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
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
#ifdef WITH_CPP_SDK
    using Stream = rerun::RecordingStream;
    using Status = rerun::Error;

    Status log_row(const Stream& rec, int64_t row) {
        rec.set_time_sequence("frame", row);
        return rec.try_log("row", rerun::TextLog("row " + std::to_string(row)));
    }

    /// The C++ SDK has no disconnect; another sink ends the stream as well.
    Status connect_nowhere(const Stream& rec) {
        return rec.connect_grpc("rerun+http://127.0.0.1:9/proxy");
    }
#else
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

    class Stream {
      public:
        Stream(const std::string& app, const std::string& recording_id) {
            const rr_store_info info{view(app), view(recording_id), 1};
            rr_error error{};
            _id = rr_recording_stream_new(&info, true, true, &error);
        }

        /// What is left is "the current recording", which is not freed.
        Stream(Stream&& other) noexcept : _id(std::exchange(other._id, 0xFFFFFFFF)) {}

        ~Stream() {
            rr_recording_stream_free(_id);
        }

        rr_recording_stream id() const {
            return _id;
        }

        bool is_enabled() const {
            rr_error error{};
            return rr_recording_stream_is_enabled(_id, &error);
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

      private:
        rr_recording_stream _id;
    };

    Status log_row(const Stream& rec, int64_t row) {
        rr_error error{};
        rr_recording_stream_set_time(rec.id(), view("frame"), 1, row, &error);
        rr_component_batch text{text_type(), array_of("row " + std::to_string(row))};
        rr_recording_stream_log(rec.id(), {view("row"), 1, &text}, true, &error);
        return Status::of(error);
    }

    /// The C API has no disconnect; another sink ends the stream as well.
    Status connect_nowhere(const Stream& rec) {
        rr_error error{};
        rr_recording_stream_connect_grpc(rec.id(), view("rerun+http://127.0.0.1:9/proxy"), 0, &error);
        return Status::of(error);
    }
#endif

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
            const auto is_last = [](const std::string& word) { return word.rfind("last=", 0) == 0; };
            const auto last = std::find_if(words.begin(), words.end(), is_last);
            const double seconds = last == words.end() ? 0 : std::stod(last->substr(5));
            return describe(rrd::save(rec, words.at(1), {has("force"), has("copy"), seconds}));
        } else if (name == "spawn") {
            rrd::SpawnOptions options;
            options.port = static_cast<uint16_t>(std::stoi(words.at(1)));
            options.headless = true;
            return describe(rrd::spawn(rec, options));
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

    class Program {
      public:
        explicit Program(Own own) : _own(std::move(own)), _rec(std::make_unique<Stream>(_own.app, _own.recording_id)) {}

        std::string obey(const std::vector<std::string>& words) {
            const std::string& name = words[0];
            if (!_rec) {
                return "error - the recording has ended";
            } else if (name == "log") {
                return log(std::stoll(words.at(1)), words.size() > 2 ? std::stoll(words[2]) : 0);
            } else if (name == "threads") {
                return together(std::stoi(words.at(1)), [&](int) { return log(std::stoll(words.at(2)), 0); });
            } else if (name == "crowd") {
                return together(std::stoi(words.at(1)), [&](int number) {
                    const std::string said = say({"save", "crowd-" + std::to_string(number) + ".rrd"});
                    return said.substr(0, said.rfind(' ', said.rfind(' ') - 1)); // without sink and URL
                });
            } else if (name == "disconnect") {
                return describe(connect_nowhere(*_rec));
            } else if (name == "end") {
                _rec.reset();
                return "ok";
            } else if (name == "other") {
                _rec.reset();
                _own.recording_id = words.at(1);
                _rec = std::make_unique<Stream>(_own.app, _own.recording_id);
                _rows = 0;
                return "ok";
            } else if (name == "move") {
                _rec = std::make_unique<Stream>(std::move(*_rec));
                return "ok";
            } else if (name == "second") {
                return second(words.at(1), std::stoll(words.at(2)));
            } else if (name == "fork") {
                return fork_child(words.at(1) == "stay");
            } else if (name == "abort") {
                std::abort();
            }
            return say(words);
        }

        /// Obey the flags, log, and end.
        int run(const rrd::Args& args) {
            if (_own.c_api) {
                args.apply(c_stream()).value_or_exit();
            } else {
                args.apply(*_rec).value_or_exit();
            }
            return log(_own.count, 0) == "ok" ? 0 : 1;
        }

      private:
#ifdef WITH_CPP_SDK
        const Stream& c_stream() const {
            return *_rec;
        }
#else
        rrd::CStream c_stream() const {
            return rrd::c_stream(_rec->id(), _own.app, _own.recording_id);
        }
#endif

        std::string say(const std::vector<std::string>& words) {
            return _own.c_api ? verb(c_stream(), words) : verb(*_rec, words);
        }

        std::string log(int64_t count, int64_t pause_us) {
            for (; count > 0; --count) {
                if (const auto status = log_row(*_rec, _rows++); !status.is_ok()) {
                    return describe(status);
                }
                if (pause_us > 0) {
                    std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
                }
            }
            return "ok";
        }

        /// The same thing in several threads at once: what all of them say, or what one says otherwise.
        template <typename Work>
        static std::string together(int number, const Work& work) {
            std::vector<std::string> said(static_cast<std::size_t>(number));
            std::vector<std::thread> threads;
            for (std::size_t index = 0; index < said.size(); ++index) {
                threads.emplace_back([&, index] { said[index] = work(static_cast<int>(index)); });
            }
            for (auto& thread : threads) {
                thread.join();
            }
            const auto other = std::find_if(said.begin(), said.end(), [&](const auto& one) { return one != said[0]; });
            return other == said.end() ? said[0] : "error - " + said[0] + " but " + *other;
        }

        std::string second(const std::string& path, int64_t count) {
            _others.push_back(std::make_unique<Stream>(_own.app, "two"));
            const auto saved = rrd::save(*_others.back(), path);
            for (int64_t row = 0; row < count; ++row) {
                if (const auto status = log_row(*_others.back(), row); !status.is_ok()) {
                    return describe(status);
                }
            }
            return describe(saved);
        }

        static std::string fork_child(bool stay) {
            const pid_t child = ::fork();
            if (child == 0) {
                if (stay) {
                    ::pause();
                }
                std::exit(0); // with all that is to be done then
            }
            int status = 0;
            if (!stay) {
                ::waitpid(child, &status, 0);
            }
            return status == 0 ? "ok " + std::to_string(child) : "error - the child ended with " + std::to_string(status);
        }

        Own _own;
        std::unique_ptr<Stream> _rec;
        std::vector<std::unique_ptr<Stream>> _others;
        std::atomic<int64_t> _rows{0};
    };
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
    Program program(own);
    if (own.count >= 0) {
        return program.run(args);
    }
    std::cout << "ready" << std::endl;
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream stream(line);
        std::vector<std::string> words;
        for (std::string word; stream >> word;) {
            words.push_back(word);
        }
        std::cout << (words.empty() ? "error - nothing said" : program.obey(words)) << std::endl;
    }
    return 0;
}
