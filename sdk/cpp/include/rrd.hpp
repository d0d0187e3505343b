// Hand a Rerun recording to the `rrd` daemon: one stream, many outputs, changed at run time, nothing lost.
//
//     rerun::RecordingStream rec("my_app");
//     rrd::save(rec, "run.rrd");                 // what was logged before is in it, too
//     rec.log("hello", rerun::TextLog("world"));
//     rrd::save(rec, "copy.rrd");                // adds a file, does not replace the first
//     rrd::spawn(rec);                           // adds a viewer, which sees everything
//
// The recording's stream goes through a pipe to the daemon, which starts by itself; every function here is a verb said
// to the daemon, and can as well be said in a shell (`rrd save`, `rrd spawn`, ...), during the run or after it.
//
// What can be relied on:
// - No message is touched: the real SDK encodes, the daemon stores byte by byte.
// - When the daemon dies, what is logged waits in the pipe and in the SDK until the next one is up (one thread per
//   process looks after that). When the program dies, all that had left the SDK is in the files.
// - A daemon that is missing and cannot be started is no error: one warning on stderr, and the recording goes on
//   buffering, as it did before (`Output::is_attached` tells). The next verb tries again.
// - Nothing throws, no signal handler is installed, the environment is never changed.
//
// What cannot:
// - A recording is known by its address. One that was moved goes on as before; but the next verb takes it for a new one,
//   whose stream begins there, and ends the old one. So, too, RecordingStream::current(): name the recording itself.
// - rec.save(..), rec.connect_grpc(..) and the like end the stream; the next verb begins a new one.
// - A forked child must not use its parent's recordings (that is Rerun's rule, too).
//
// C++17, Linux. Needs nlohmann/json (3.9 or newer) for CBOR, and threads. rrd_c.hpp does the same for streams of
// Rerun's C API.
#pragma once

#ifndef __linux__
#error "rrd passes pipes as /proc/self/fd/N: it needs Linux"
#endif

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace rrd {
    inline constexpr const char* VERSION = "0.1.0";

    // ---------------------------------------------------------------------------------------------------------------
    // Results, in the style of Rerun's own

    /// Why a verb did not do what it was asked to. Without a code: it did.
    struct [[nodiscard]] Error {
        /// One word for programs: "exists", "refused", "not-found", ... as in ARCHITECTURE.md; "unavailable": there is
        /// no daemon; "sdk": the SDK could not save to the pipe.
        std::string code;
        /// One line for people.
        std::string description;
        /// What to do about it, or empty.
        std::string hint;

        bool is_ok() const {
            return code.empty();
        }

        bool is_err() const {
            return !code.empty();
        }

        /// Say it on stderr, if it is one.
        void handle() const {
            if (is_err()) {
                std::fprintf(stderr, "rrd: error: %s%s%s\n", description.c_str(), hint.empty() ? "" : "; ", hint.c_str());
            }
        }

        /// Say it on stderr and end the program with code 1, if it is one.
        void exit_on_failure() const {
            handle();
            if (is_err()) {
                std::exit(1);
            }
        }
    };

    /// A value, or an error instead.
    template <typename T>
    struct [[nodiscard]] Result {
        T value{};
        Error error{};

        Result(T value_) : value(std::move(value_)) {}

        Result(Error error_) : error(std::move(error_)) {}

        bool is_ok() const {
            return error.is_ok();
        }

        bool is_err() const {
            return error.is_err();
        }

        /// The value. If there is none, the error is said on stderr and the program ends with code 1.
        const T& value_or_exit() const {
            error.exit_on_failure();
            return value;
        }
    };

    /// What a verb added: where the recording's stream is, and what it goes to. What there is none of is empty.
    struct Output {
        /// Id of the recording's stream, as in `rrd status`. Empty if there is no daemon, or the recording is disabled.
        std::string stream;
        /// Id of the new output, for `detach`.
        std::string sink;
        /// Where it can be seen, if it is something to look at.
        std::string url;

        /// Whether the recording is in the daemon's hands, and not just buffering in the SDK.
        bool is_attached() const {
            return !stream.empty();
        }
    };

    /// How `save` treats what it finds.
    struct SaveOptions {
        /// Overwrite an existing file.
        bool force = false;
        /// Make an independent file, even where a hard link to the daemon's log would do.
        bool copy = false;
        /// Seconds: only what was logged in the last so many until now, with what has no time of before; the file is
        /// complete soon, and does not grow. 0: everything.
        double last = 0;
    };

    /// What `spawn` starts: the daemon finds a viewer that is running, or starts the installed one.
    struct SpawnOptions {
        /// Start a viewer even if one is running.
        bool new_viewer = false;
        /// Port that it listens on; 0: as it comes.
        std::uint16_t port = 0;
        /// The viewer's program; empty: the installed one.
        std::string executable = {};
        /// Memory at which the viewer drops the oldest data, such as "75%" or "4GB"; empty: its own choice.
        std::string memory_limit = {};
        /// Without a window.
        bool headless = false;
    };

    /// How `serve` serves.
    struct ServeOptions {
        /// Port of the web page; 0: as it comes.
        std::uint16_t port = 0;
        /// Address to listen on; empty: loopback.
        std::string bind = {};
        /// Whether to open the browser; nothing: as the daemon's settings say.
        std::optional<bool> open_browser = {};
    };

    // ---------------------------------------------------------------------------------------------------------------
    // The control protocol: bytes in, messages out. No I/O in here.

    namespace control {
        /// Keeps its keys in the order in which they are sent.
        using Json = nlohmann::ordered_json;

        /// The protocol that is spoken here, said in `hello`.
        inline constexpr std::uint64_t PROTOCOL = 1;
        /// The longest message either side may send.
        inline constexpr std::size_t MAX_MESSAGE = std::size_t{1} << 20;
        /// No message nests deeper: the map itself is the first level, what it holds the second.
        inline constexpr std::size_t MAX_DEPTH = 16;

        namespace detail {
            /// Length of the UTF-8 sequence at a place; 0 if there is none. RFC 3629: no overlong forms, no surrogates,
            /// nothing above U+10FFFF.
            inline std::size_t utf8_at(std::string_view text, std::size_t at) {
                const auto byte = [&](std::size_t place) {
                    return place < text.size() ? static_cast<unsigned char>(text[place]) : 0U;
                };
                const unsigned first = byte(at);
                const unsigned second = byte(at + 1);
                const std::size_t more = first < 0x80 ? 0 : first < 0xc2 ? 4 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
                const bool wrong = more == 4 || first > 0xf4 || (first == 0xe0 && second < 0xa0) ||
                                   (first == 0xed && second > 0x9f) || (first == 0xf0 && second < 0x90) ||
                                   (first == 0xf4 && second > 0x8f);
                if (wrong) {
                    return 0;
                }
                for (std::size_t next = 1; next <= more; ++next) {
                    if ((byte(at + next) & 0xc0) != 0x80) {
                        return 0;
                    }
                }
                return more + 1;
            }

            /// Text for people of what need not be any, such as a path: other bytes become question marks.
            inline std::string in_utf8(std::string_view bytes) {
                std::string text;
                for (std::size_t at = 0; at < bytes.size();) {
                    const std::size_t length = utf8_at(bytes, at);
                    text += length > 0 ? bytes.substr(at, length) : "?";
                    at += std::max(length, std::size_t{1});
                }
                return text;
            }

            inline bool is_utf8(std::string_view text) {
                for (std::size_t at = 0, length = 0; at < text.size(); at += length) {
                    if ((length = utf8_at(text, at)) == 0) {
                        return false;
                    }
                }
                return true;
            }

            /// CBOR as the protocol wants it: 64-bit floats, which the library would shorten; all else is the library's.
            inline Error write(const Json& value, std::vector<std::uint8_t>& bytes) {
                const auto head = [&](std::uint8_t major, std::size_t size) {
                    const std::size_t at = bytes.size();
                    Json::to_cbor(Json(static_cast<std::uint64_t>(size)), bytes);
                    bytes[at] = static_cast<std::uint8_t>(bytes[at] | major << 5);
                };
                if (value.is_object()) {
                    head(5, value.size());
                    for (const auto& [key, child] : value.items()) {
                        Json::to_cbor(Json(key), bytes);
                        if (Error error = write(child, bytes); error.is_err()) {
                            return error;
                        }
                    }
                } else if (value.is_array()) {
                    head(4, value.size());
                    for (const auto& child : value) {
                        if (Error error = write(child, bytes); error.is_err()) {
                            return error;
                        }
                    }
                } else if (value.is_string() && !is_utf8(value.get_ref<const std::string&>())) {
                    return {"usage", "not UTF-8: " + in_utf8(value.get_ref<const std::string&>()), ""};
                } else if (value.is_number_float()) {
                    const auto number = value.get<double>();
                    std::uint64_t bits = 0;
                    std::memcpy(&bits, &number, sizeof bits);
                    bytes.push_back(0xfb);
                    for (int shift = 56; shift >= 0; shift -= 8) {
                        bytes.push_back(static_cast<std::uint8_t>(bits >> shift));
                    }
                } else {
                    Json::to_cbor(value, bytes);
                }
                return {};
            }
        } // namespace detail

        /// A message as it goes over the socket: its length, big endian, and its CBOR. Code "usage": it is too long, or
        /// a text in it is not UTF-8, as a path may be.
        inline Result<std::vector<std::uint8_t>> encode(const Json& message) {
            std::vector<std::uint8_t> bytes(4);
            if (Error error = detail::write(message, bytes); error.is_err()) {
                return error;
            }
            const std::size_t length = bytes.size() - 4;
            if (length > MAX_MESSAGE) {
                return Error{
                    "usage",
                    "message of " + std::to_string(length) + " bytes, at most " + std::to_string(MAX_MESSAGE) +
                        " are allowed",
                    ""};
            }
            for (std::size_t byte = 0; byte < 4; ++byte) {
                bytes[byte] = static_cast<std::uint8_t>(length >> (8 * (3 - byte)));
            }
            return bytes;
        }

        namespace detail {
            /// Refuses what is nested too deeply, before a parser recurses into it, and text that is none.
            class DepthCheck : public nlohmann::json_sax<Json> {
              public:
                bool null() override {
                    return leaf();
                }

                bool boolean(bool) override {
                    return leaf();
                }

                bool number_integer(number_integer_t) override {
                    return leaf();
                }

                bool number_unsigned(number_unsigned_t) override {
                    return leaf();
                }

                bool number_float(number_float_t, const string_t&) override {
                    return leaf();
                }

                bool string(string_t& text) override {
                    return leaf() && is_utf8(text);
                }

                bool binary(binary_t&) override {
                    return leaf();
                }

                bool start_object(std::size_t) override {
                    return ++_depth <= MAX_DEPTH;
                }

                bool key(string_t& text) override {
                    return is_utf8(text);
                }

                bool end_object() override {
                    --_depth;
                    return true;
                }

                bool start_array(std::size_t) override {
                    return ++_depth <= MAX_DEPTH;
                }

                bool end_array() override {
                    --_depth;
                    return true;
                }

                bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
                    return false;
                }

              private:
                bool leaf() const {
                    return _depth + 1 <= MAX_DEPTH;
                }

                std::size_t _depth = 0;
            };
        } // namespace detail

        /// Bytes in, messages out. Keeps at most one message and what followed it in the same read.
        class Decoder {
          public:
            /// Store bytes that arrived.
            void receive_data(const std::uint8_t* data, std::size_t size) {
                _buffer.insert(_buffer.end(), data, data + size);
            }

            /// The next whole message; null until more bytes arrive. An error: the bytes are no message.
            Result<Json> next_message() {
                if (_buffer.size() < 4) {
                    return Json();
                }
                std::size_t length = 0;
                for (std::size_t byte = 0; byte < 4; ++byte) {
                    length = length << 8 | _buffer[byte];
                }
                if (length > MAX_MESSAGE) {
                    return refuse(
                        "a message of " + std::to_string(length) + " bytes is announced, at most " +
                        std::to_string(MAX_MESSAGE) + " are allowed"
                    );
                }
                if (_buffer.size() < 4 + length) {
                    return Json();
                }
                const auto begin = _buffer.begin() + 4;
                const auto end = begin + static_cast<std::ptrdiff_t>(length);
                const std::vector<std::uint8_t> body(begin, end);
                _buffer.erase(_buffer.begin(), end);
                detail::DepthCheck check;
                if (!Json::sax_parse(body, &check, nlohmann::detail::input_format_t::cbor)) {
                    return refuse("not CBOR, bytes after the message, or nested deeper than " + std::to_string(MAX_DEPTH));
                }
                Json message = Json::from_cbor(body, true, false);
                if (!message.is_object()) {
                    return refuse("a message must be a CBOR map with text keys");
                }
                return message;
            }

            /// Bytes of a message that has not arrived whole.
            std::size_t pending() const {
                return _buffer.size();
            }

          private:
            static Error refuse(const std::string& why) {
                return {"unavailable", "the daemon's answer is no message: " + why, "are both sides up to date?"};
            }

            std::vector<std::uint8_t> _buffer;
        };

        /// The text of a key, or empty.
        inline std::string text(const Json& map, const char* key) {
            const auto found = map.is_object() ? map.find(key) : map.end();
            return found != map.end() && found->is_string() ? found->get<std::string>() : std::string();
        }

        /// The number of a key, or 0.
        inline std::uint64_t number(const Json& map, const char* key) {
            const auto found = map.is_object() ? map.find(key) : map.end();
            return found != map.end() && found->is_number_unsigned() ? found->get<std::uint64_t>() : 0;
        }

        /// The map of a key, or null.
        inline Json map_of(const Json& map, const char* key) {
            const auto found = map.is_object() ? map.find(key) : map.end();
            return found != map.end() && found->is_object() ? *found : Json();
        }
    } // namespace control

    namespace detail {
        using control::Json;
        using Clock = std::chrono::steady_clock;
        using std::chrono::milliseconds;
        using std::chrono::seconds;

        /// How long the daemon may take for its first answer: a keeper listens while the daemon is being started again.
        inline constexpr seconds HELLO_TIMEOUT{10};
        /// How long a daemon may take to listen, and another program to start one.
        inline constexpr seconds START_TIMEOUT{10};
        /// A daemon that ends may have found another one that is just starting: look a little longer.
        inline constexpr seconds GONE_GRACE{1};
        /// How long a verb may take. Starting a viewer takes the longest.
        inline constexpr seconds VERB_TIMEOUT{60};
        /// How long a flush may take: everything that was logged must reach the disk.
        inline constexpr seconds FLUSH_TIMEOUT{120};
        /// How long a verb waits for a daemon that is being connected to again.
        inline constexpr seconds RECONNECT_TIMEOUT{20};
        /// With nobody listening for this long the keeper must be dead, too: it needs a second at most.
        inline constexpr seconds RESTART_AFTER{2};
        /// How long the end of the program may take to find a home for what is still in the pipes.
        inline constexpr seconds EXIT_TIMEOUT{10};
        /// A keeper may want to start: the locks are held at most this long in one go.
        inline constexpr milliseconds SPILL_SLICE{50};
        /// After a daemon could not be had, verbs do not try to start one, or wait for one that hangs, for this long:
        /// each try may take ten seconds of the program's time. One that is there is found all the same.
        inline constexpr seconds TRY_AGAIN_AFTER{30};
        /// How long one that hung may take then.
        inline constexpr milliseconds SHORT_TIMEOUT{200};
        /// A request that the daemon died under is said again this often.
        inline constexpr int ATTEMPTS = 5;

        inline void warn(const std::string& message) {
            std::fprintf(stderr, "rrd: warning: %s\n", message.c_str());
        }

        inline void pause(milliseconds time) {
            poll(nullptr, 0, static_cast<int>(time.count()));
        }

        inline std::string describe(int number) {
            char space[128] = "";
            return std::to_string(number) + " " + strerror_r(number, space, sizeof space); // glibc's: returns the text
        }

        inline Error unavailable(std::string message, std::string hint = "") {
            return {"unavailable", std::move(message), std::move(hint)};
        }

        inline std::string in_words(const Error& error) {
            return error.description + (error.hint.empty() ? "" : " (hint: " + error.hint + ")");
        }

        /// Nothing can be had from the daemon as things are: it is missing, or speaks another protocol.
        inline bool is_no_daemon(const Error& error) {
            return error.code == "unavailable" || error.code == "protocol";
        }

        /// A descriptor that is closed at the end.
        class Descriptor {
          public:
            Descriptor() = default;

            explicit Descriptor(int number) : _number(number) {}

            Descriptor(Descriptor&& other) noexcept : _number(std::exchange(other._number, -1)) {}

            Descriptor& operator=(Descriptor&& other) noexcept {
                std::swap(_number, other._number);
                return *this;
            }

            Descriptor(const Descriptor&) = delete;
            Descriptor& operator=(const Descriptor&) = delete;

            ~Descriptor() {
                if (_number >= 0) {
                    ::close(_number);
                }
            }

            int get() const {
                return _number;
            }

            explicit operator bool() const {
                return _number >= 0;
            }

          private:
            int _number = -1;
        };

        // -----------------------------------------------------------------------------------------------------------
        // Where things are: the same rules as in the daemon (daemon/paths.py)

        inline std::string variable(const char* name) {
            const char* value = std::getenv(name);
            return value == nullptr ? "" : value;
        }

        inline bool is_directory(const std::string& path) {
            struct stat found {};
            return !path.empty() && ::stat(path.c_str(), &found) == 0 && S_ISDIR(found.st_mode);
        }

        /// Directory of the control socket and the locks: $XDG_RUNTIME_DIR/rrd, else a private one in the temp dir.
        inline std::string runtime_dir() {
            const std::string base = variable("XDG_RUNTIME_DIR");
            if (is_directory(base)) {
                return base + "/rrd";
            }
            // As Python's tempfile.gettempdir chooses it, since the daemon may be started by either.
            for (const auto& dir :
                 {variable("TMPDIR"), variable("TEMP"), variable("TMP"), std::string("/tmp"), std::string("/var/tmp")}) {
                if (is_directory(dir)) {
                    return dir + "/rrd-" + std::to_string(::getuid());
                }
            }
            return "/tmp/rrd-" + std::to_string(::getuid());
        }

        /// The user's home, as Python's expanduser finds it. Empty: a uid without a name, in a container.
        inline std::string home_dir() {
            if (std::getenv("HOME") != nullptr) {
                const std::string home = variable("HOME");
                return home.empty() ? "/" : home;
            }
            std::vector<char> space(1 << 16);
            passwd entry{};
            passwd* found = nullptr;
            ::getpwuid_r(::getuid(), &entry, space.data(), space.size(), &found);
            return found == nullptr ? "" : found->pw_dir;
        }

        /// Directory of the recordings, the daemon's own log, the keeper's lock and a second socket: a runtime directory
        /// is a login session's, and programs of another (cron, su) find the daemon here.
        inline Result<std::string> state_dir() {
            const std::string base = variable("XDG_STATE_HOME");
            if (!base.empty() && base[0] == '/') {
                return base + "/rrd";
            }
            const std::string home = home_dir();
            if (home.empty() || home[0] != '/') {
                return unavailable(
                    "HOME is not set and this user has no home directory", "set HOME, or XDG_STATE_HOME"
                );
            }
            return home + "/.local/state/rrd";
        }

        /// Make a directory that only its owner can enter, or check that it is one.
        inline Error make_private(const std::string& path) {
            for (std::size_t end = path.find('/', 1); end != std::string::npos; end = path.find('/', end + 1)) {
                ::mkdir(path.substr(0, end).c_str(), 0700); // what is wrong with it shows at the last one
            }
            if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
                return unavailable("cannot make directory: " + describe(errno) + ": " + path, "check the directory above it");
            }
            struct stat found {};
            if (::lstat(path.c_str(), &found) != 0 || !S_ISDIR(found.st_mode)) {
                return unavailable("not a directory: " + path, "remove it");
            }
            if (found.st_uid != ::getuid()) {
                return unavailable("directory belongs to somebody else: " + path, "set XDG_RUNTIME_DIR");
            }
            if ((found.st_mode & 077) != 0 && ::chmod(path.c_str(), 0700) != 0) {
                return unavailable("cannot make directory private: " + describe(errno) + ": " + path);
            }
            return {};
        }

        // -----------------------------------------------------------------------------------------------------------
        // A connection to the daemon, which is started if it is not there

        /// The longest path that a socket may have: sun_path holds a final NUL, too (unix(7)).
        inline constexpr std::size_t MAX_SOCKET_PATH = sizeof(sockaddr_un::sun_path) - 1;

        /// Connect to a daemon at this path, which is short enough; an empty descriptor if nobody listens.
        inline Result<Descriptor> dial(const std::string& path) {
            sockaddr_un address{};
            address.sun_family = AF_UNIX;
            std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
            Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
            if (!socket || ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
                if (errno == ENOENT || errno == ECONNREFUSED) {
                    return Descriptor();
                }
                return unavailable("cannot connect to the daemon: " + describe(errno) + ": " + path);
            }
            ucred peer{};
            socklen_t size = sizeof peer;
            if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid != ::getuid()) {
                return unavailable("the daemon's socket belongs to somebody else", "set XDG_RUNTIME_DIR");
            }
            // A daemon that hangs must not hang the program.
            const timeval limit{HELLO_TIMEOUT.count(), 0};
            ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
            return socket;
        }

        /// Connect to the daemon if it is there, at the session's socket or else at the one beside the recordings; an empty
        /// descriptor if nobody listens.
        inline Result<Descriptor> dial() {
            const std::string usual = runtime_dir() + "/control.sock";
            if (usual.size() > MAX_SOCKET_PATH) {
                return unavailable(
                    "socket path is " + std::to_string(usual.size()) + " bytes long, at most " +
                        std::to_string(MAX_SOCKET_PATH) + " are possible: " + usual,
                    "set XDG_RUNTIME_DIR to a shorter directory"
                );
            }
            auto found = dial(usual);
            const auto state = state_dir();
            const std::string spare = state.value + "/daemon.sock";
            const bool none = state.is_err() || spare.size() > MAX_SOCKET_PATH;
            return found.is_err() || found.value || none ? std::move(found) : dial(spare);
        }

        /// $RRD_DAEMON, else rrd-daemon on PATH.
        inline Result<std::string> daemon_program() {
            const std::string chosen = variable("RRD_DAEMON");
            if (!chosen.empty()) {
                if (::access(chosen.c_str(), X_OK) != 0 || is_directory(chosen)) {
                    return unavailable(
                        "cannot start the daemon: not an executable file: " + chosen, "RRD_DAEMON says so"
                    );
                }
                return chosen;
            }
            const std::string path = variable("PATH");
            for (std::size_t begin = 0; begin <= path.size();) {
                const std::size_t end = std::min(path.find(':', begin), path.size());
                const std::string found = path.substr(begin, end - begin) + "/rrd-daemon";
                if (::access(found.c_str(), X_OK) == 0) {
                    return found;
                }
                begin = end + 1;
            }
            return unavailable(
                "cannot start the daemon: rrd-daemon not found",
                "install it (pip install rrd-cli), or set RRD_DAEMON to its path"
            );
        }

        /// Start a daemon that is nobody's child and outlives this process; returns its process id.
        inline Result<pid_t> spawn_daemon() {
            const auto chosen = daemon_program();
            if (chosen.is_err()) {
                return chosen.error;
            }
            const std::string& program = chosen.value;
            const auto state = state_dir();
            if (Error error = state.is_err() ? state.error : make_private(state.value); error.is_err()) {
                return error;
            }
            const std::string log = state.value + "/daemon.log";
            int ends[2];
            if (::pipe2(ends, O_CLOEXEC) != 0) {
                return unavailable("cannot start the daemon: " + describe(errno));
            }
            Descriptor reader(ends[0]);
            Descriptor writer(ends[1]);
            posix_spawn_file_actions_t actions;
            posix_spawn_file_actions_init(&actions);
            posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
            posix_spawn_file_actions_adddup2(&actions, writer.get(), 1);
            posix_spawn_file_actions_addopen(&actions, 2, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 34)
            posix_spawn_file_actions_addclosefrom_np(&actions, 3);
#endif
            posix_spawnattr_t attributes;
            posix_spawnattr_init(&attributes);
            sigset_t none;
            sigset_t all;
            sigemptyset(&none);
            sigfillset(&all);
            posix_spawnattr_setsigmask(&attributes, &none);
            posix_spawnattr_setsigdefault(&attributes, &all);
            posix_spawnattr_setflags(
                &attributes, static_cast<short>(POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF)
            );
            // The shell leaves at once, so the daemon becomes nobody's child; it says the daemon's process id first.
            const char* argv[] = {
                "/bin/sh", "-c", "cd / && \"$@\" </dev/null >&2 & echo $!", "rrd-daemon", program.c_str(), nullptr};
            pid_t shell = 0;
            const int failure =
                posix_spawn(&shell, argv[0], &actions, &attributes, const_cast<char* const*>(argv), environ);
            posix_spawnattr_destroy(&attributes);
            posix_spawn_file_actions_destroy(&actions);
            if (failure != 0) {
                return unavailable("cannot start the daemon: " + describe(failure) + ": " + program);
            }
            writer = Descriptor();
            std::string said;
            char buffer[64];
            for (ssize_t count = 0; (count = ::read(reader.get(), buffer, sizeof buffer)) != 0;) {
                if (count > 0) {
                    said.append(buffer, static_cast<std::size_t>(count));
                } else if (errno != EINTR) {
                    break;
                }
            }
            while (::waitpid(shell, nullptr, 0) < 0 && errno == EINTR) {
            }
            const long pid = std::strtol(said.c_str(), nullptr, 10);
            if (pid <= 0) {
                return unavailable("cannot start the daemon: the shell that should do it failed", "see " + log);
            }
            return static_cast<pid_t>(pid);
        }

        /// The lock under which a daemon is started. A loser of the race waits here: what the winner starts is as good.
        inline Result<Descriptor> start_lock() {
            if (Error error = make_private(runtime_dir()); error.is_err()) {
                return error;
            }
            const std::string path = runtime_dir() + "/start.lock";
            Descriptor lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
            if (!lock) {
                return unavailable("cannot lock: " + describe(errno) + ": " + path);
            }
            const auto deadline = Clock::now() + START_TIMEOUT + seconds(2);
            while (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
                if ((errno != EWOULDBLOCK && errno != EINTR) || Clock::now() > deadline) {
                    return unavailable("cannot lock: " + describe(errno) + ": " + path);
                }
                pause(milliseconds(20));
            }
            return lock;
        }

        /// Connect to the daemon; start it if it is not there.
        inline Result<Descriptor> dial_or_start() {
            if (auto found = dial(); found.is_err() || found.value) {
                return found;
            }
            const auto lock = start_lock();
            if (lock.is_err()) {
                return lock.error;
            }
            if (auto found = dial(); found.is_err() || found.value) {
                return found;
            }
            const auto daemon = spawn_daemon();
            if (daemon.is_err()) {
                return daemon.error;
            }
            const std::string hint = "see " + state_dir().value + "/daemon.log";
            const auto deadline = Clock::now() + START_TIMEOUT;
            std::optional<Clock::time_point> gone;
            while (true) {
                if (auto found = dial(); found.is_err() || found.value) {
                    return found;
                }
                const auto now = Clock::now();
                if (!gone && ::kill(daemon.value, 0) != 0 && errno == ESRCH) {
                    gone = now;
                }
                if (gone && now > *gone + GONE_GRACE) {
                    return unavailable("the daemon ended as soon as it was started", hint);
                }
                if (now > deadline) {
                    return unavailable("the daemon was started, but does not listen", hint);
                }
                pause(milliseconds(20));
            }
        }

        // -----------------------------------------------------------------------------------------------------------
        // The pipe between one recording and the daemon

        /// Both ends of a pipe. They are held here for as long as the stream lives: so the SDK never meets a pipe that
        /// nobody reads, and the bytes in it survive the death of whoever reads it.
        class Pipe {
          public:
            /// A new pipe, closed on exec. Nothing if the system has none left.
            static std::shared_ptr<Pipe> make() {
                int ends[2];
                if (::pipe2(ends, O_CLOEXEC) != 0) {
                    return nullptr;
                }
                auto made = std::make_shared<Pipe>();
                made->_reader = Descriptor(ends[0]);
                made->_writer = ends[1];
                struct stat found {};
                ::fstat(ends[0], &found);
                made->_name = "pipe:[" + std::to_string(found.st_ino) + "]";
                return made;
            }

            Pipe() = default;
            Pipe(const Pipe&) = delete;
            Pipe& operator=(const Pipe&) = delete;

            ~Pipe() {
                close_writer();
            }

            /// The end that the daemon reads.
            int reader() const {
                return _reader.get();
            }

            /// A path that reaches the write end, for as long as it is held here.
            std::string path() const {
                return "/proc/self/fd/" + std::to_string(_writer.load());
            }

            /// Bytes that wait to be read.
            std::size_t unread() const {
                int count = 0;
                return ::ioctl(_reader.get(), FIONREAD, &count) == 0 && count > 0 ? static_cast<std::size_t>(count) : 0;
            }

            /// Whether somebody else in this process holds the pipe: the SDK, until its sink ends.
            bool in_use() const {
                const std::unique_ptr<DIR, int (*)(DIR*)> entries(::opendir("/proc/self/fd"), &::closedir);
                if (!entries) {
                    return true;
                }
                while (const dirent* entry = ::readdir(entries.get())) {
                    const int number = std::atoi(entry->d_name);
                    char link[64];
                    const ssize_t size = ::readlinkat(::dirfd(entries.get()), entry->d_name, link, sizeof link);
                    if (size > 0 && std::string_view(link, static_cast<std::size_t>(size)) == _name &&
                        number != _reader.get() && number != _writer.load()) {
                        return true;
                    }
                }
                return false;
            }

            /// Read and drop what the SDK still writes, so that it neither stalls nor dies, until its sink ends.
            std::size_t drain() {
                close_writer(); // only then does the end of file show
                std::vector<char> buffer(1 << 16);
                std::size_t dropped = 0;
                while (true) {
                    const ssize_t count = ::read(_reader.get(), buffer.data(), buffer.size());
                    if (count > 0) {
                        dropped += static_cast<std::size_t>(count);
                    } else if (count < 0 && errno == EAGAIN) {
                        // The daemon reads without blocking, and that flag is the pipe's, not the descriptor's.
                        pollfd end{_reader.get(), POLLIN, 0};
                        ::poll(&end, 1, -1);
                    } else if (count == 0 || errno != EINTR) {
                        return dropped;
                    }
                }
            }

          private:
            void close_writer() {
                if (const int number = _writer.exchange(-1); number >= 0) {
                    ::close(number);
                }
            }

            Descriptor _reader;
            std::atomic<int> _writer{-1};
            std::string _name;
        };

        /// What is known of a recording.
        struct Identity {
            /// Tells it from the others of this process. Empty: it is disabled, and every verb does nothing.
            std::string key;
            /// Its ids, if the SDK tells them: else the daemon reads them in the stream.
            std::string application_id;
            std::string recording_id;
            /// The SDK, for people.
            std::string sdk;
        };

        /// A stream that the daemon has opened.
        struct Stream {
            std::string id;
            std::string log;
            Identity identity;
            std::shared_ptr<Pipe> pipe;
            /// Its log has lost bytes, and so can take no more.
            std::atomic<bool> broken{false};
        };

        using Streams = std::vector<std::shared_ptr<Stream>>;

        // -----------------------------------------------------------------------------------------------------------
        // What is done with the pipes while there is neither daemon nor keeper: their bytes are appended to the logs.
        // A log is a verbatim stream, so the next daemon finds everything where it looks for it, and goes on behind it.
        // Only with the keeper's own lock in hand, which proves that nobody else reads the pipes or writes the logs, and
        // with the one under which a daemon is started, so that whoever wants to start one waits.

        inline std::size_t spill_some(Stream& stream, int log) {
            std::vector<char> piece(std::min(stream.pipe->unread(), std::size_t{1} << 16));
            if (piece.empty()) {
                return 0;
            }
            const ssize_t count = ::read(stream.pipe->reader(), piece.data(), piece.size());
            for (ssize_t done = 0; done < count;) {
                const ssize_t written = ::write(log, piece.data() + done, static_cast<std::size_t>(count - done));
                if (written < 0 && errno != EINTR) {
                    // A gap makes all that follows unreadable, so the log ends here.
                    stream.broken = true;
                    warn("there is no daemon, and its log cannot be written: " + describe(errno) + ": " + stream.log);
                    return 0;
                }
                done += std::max<ssize_t>(written, 0);
            }
            return static_cast<std::size_t>(std::max<ssize_t>(count, 0));
        }

        /// Move what is in the pipes to their logs, if nobody else can. Returns the number of bytes moved.
        inline std::size_t spill(const Streams& streams) {
            const auto waits = [](const auto& stream) { return stream->pipe->unread() > 0; };
            const auto waiting = std::find_if(streams.begin(), streams.end(), waits);
            if (waiting == streams.end()) {
                return 0;
            }
            // The keeper is the one of the log's spool, whatever session it is of: .../spool/<stream>.rrd
            const std::string& log = (*waiting)->log;
            const std::string state = log.substr(0, log.rfind('/', log.rfind('/') - 1));
            std::vector<Descriptor> locks;
            for (const std::string& path : {runtime_dir() + "/start.lock", state + "/keeper.lock"}) {
                locks.emplace_back(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
                if (!locks.back() || ::flock(locks.back().get(), LOCK_EX | LOCK_NB) != 0) {
                    return 0;
                }
            }
            if (::ftruncate(locks.back().get(), 0) != 0) { // a keeper writes its process id there, and that is not ours
                return 0;
            }
            const auto until = Clock::now() + SPILL_SLICE;
            std::vector<Descriptor> logs;
            for (const auto& stream : streams) {
                logs.emplace_back(
                    stream->broken ? -1 : ::open(stream->log.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC)
                );
            }
            std::size_t total = 0;
            for (std::size_t before = 1; before != total && Clock::now() < until;) {
                before = total;
                for (std::size_t index = 0; index < streams.size(); ++index) {
                    if (logs[index] && !streams[index]->broken) {
                        total += spill_some(*streams[index], logs[index].get());
                    }
                }
            }
            return total;
        }

        // -----------------------------------------------------------------------------------------------------------
        // The one connection of this process to the daemon, and the one thread that watches it
        //
        //           verb                 end of file, streams are open
        //   Down ────────> Up ──────────────────────────────> Busy ──> Up      every stream is opened again, by its id
        //    ^             │ end of file, no stream            │ nobody listens for RESTART_AFTER: start a daemon,
        //    └─────────────┴────────── streams have ended ─────┘ once, unless it was stopped on purpose; else spill
        //
        // Rules: the thread that says a verb connects, so that it hears why that failed; from then on the watcher reads,
        // hands answers to those who wait, and connects again when the daemon dies. A verb said meanwhile waits.
        // Whatever happens, the program goes on: a pipe that nobody reads is emptied here, never closed under the SDK
        // (SIGPIPE would kill the program). A forked child has a link of its own. No wake-ups while all is well.

        class Link {
          public:
            /// The link of this process; a forked child gets one of its own. Never freed: locks of a parent's threads
            /// may be held in it, and at the program's end the watcher goes on.
            static Link& get() {
                static std::atomic<Link*> current{nullptr};
                const pid_t pid = ::getpid();
                Link* found = current.load();
                while (found == nullptr || found->_pid != pid) {
                    auto fresh = std::make_unique<Link>(pid);
                    if (current.compare_exchange_strong(found, fresh.get())) {
                        std::atexit([] { get().leave(); });
                        return *fresh.release();
                    }
                }
                return *found;
            }

            explicit Link(pid_t pid) : _pid(pid) {}

            Link(const Link&) = delete;
            Link& operator=(const Link&) = delete;

            /// Say once on stderr that there is no daemon, and what that means.
            void warn_no_daemon(const Error& error) {
                if (!_warned.exchange(true)) {
                    warn(in_words(error) + "; the recording goes on buffering in the SDK");
                }
            }

            /// Say a verb and wait for its result. If the daemon dies under it, it is said again to the next one.
            Result<Json> request(const std::string& verb, const Json& args, seconds timeout) {
                const auto deadline = Clock::now() + timeout;
                for (int attempt = 0; attempt < ATTEMPTS; ++attempt) {
                    auto answer = try_request(verb, args, -1, deadline);
                    if (answer.error.code != LOST) {
                        return own_sink(verb, args, attempt, std::move(answer));
                    }
                }
                return unavailable("the daemon keeps going away during `" + verb + "`", "see `rrd daemon logs`");
            }

            /// The recording's stream; opened now if it has none. `save` is given the path that the SDK is to save to.
            Result<std::shared_ptr<Stream>> open(
                const Identity& identity, const std::function<Error(const std::string&)>& save
            ) {
                const std::lock_guard one_at_a_time(_opening);
                if (auto found = stream_of(identity.key)) {
                    return found;
                }
                auto opened = open_stream(identity);
                if (opened.is_err()) {
                    return opened;
                }
                if (Error error = save(opened.value->pipe->path()); error.is_err()) {
                    {
                        const std::lock_guard lock(_mutex);
                        _streams.erase(
                            std::remove(_streams.begin(), _streams.end(), opened.value), _streams.end()
                        );
                    }
                    // It never began: the daemon would find that out by itself at the pipe's end.
                    (void)request("close", {{"stream", opened.value->id}}, HELLO_TIMEOUT);
                    return error;
                }
                return opened;
            }

            /// The stream of a recording whose SDK sink is still alive.
            std::shared_ptr<Stream> stream_of(const std::string& key) {
                for (const auto& stream : streams()) {
                    if (stream->identity.key == key && stream->pipe->in_use()) {
                        return stream;
                    }
                }
                return nullptr;
            }

            /// All that are open.
            Streams streams() {
                const std::lock_guard lock(_mutex);
                return _streams;
            }

          private:
            enum class Phase { Down, Busy, Up };

            struct Waiting {
                bool done = false;
                Result<Json> answer = Json();
                /// What becomes a stream the moment the daemon says that it opened it.
                std::shared_ptr<Stream> opening;
            };

            static constexpr const char* LOST = "lost";

            struct Connection {
                Descriptor socket;
                control::Decoder decoder;
            };

            static Json open_args(const Stream& stream) {
                char program[4096];
                const auto size = static_cast<std::size_t>(
                    std::max<ssize_t>(::readlink("/proc/self/exe", program, sizeof program), 0)
                );
                Json args = {
                    {"application_id", stream.identity.application_id},
                    {"recording_id", stream.identity.recording_id},
                    {"sdk", stream.identity.sdk},
                    {"kind", "shim"},
                    {"pid", static_cast<std::uint64_t>(::getpid())},
                    {"program", control::detail::in_utf8({program, size})},
                };
                if (!stream.id.empty()) {
                    args["stream"] = stream.id;
                }
                return args;
            }

            Result<std::shared_ptr<Stream>> open_stream(const Identity& identity) {
                for (int attempt = 0; attempt < ATTEMPTS; ++attempt) {
                    // A fresh pipe each time: a daemon that died may have kept the last one's read end.
                    auto stream = std::make_shared<Stream>();
                    stream->identity = identity;
                    stream->pipe = Pipe::make();
                    if (!stream->pipe) {
                        return unavailable("cannot make a pipe: " + describe(errno));
                    }
                    const auto deadline = Clock::now() + HELLO_TIMEOUT;
                    auto answer =
                        try_request("open", open_args(*stream), stream->pipe->reader(), deadline, stream);
                    if (answer.is_ok()) {
                        return stream;
                    }
                    if (answer.error.code != LOST) {
                        return answer.error;
                    }
                }
                return unavailable("the daemon keeps going away during `open`", "see `rrd daemon logs`");
            }

            /// A `save` that is said again may meet the sink of the first time: then that one is the answer.
            Result<Json> own_sink(const std::string& verb, const Json& args, int attempt, Result<Json> answer) {
                if (verb != "save" || attempt == 0 || answer.error.code != "exists") {
                    return answer;
                }
                const auto status = try_request("status", Json::object(), -1, Clock::now() + HELLO_TIMEOUT);
                const auto sinks = status.value.is_object() ? status.value.find("sinks") : status.value.end();
                if (status.is_err() || sinks == status.value.end()) {
                    return answer;
                }
                for (const auto& sink : *sinks) {
                    if (control::text(sink, "target") == control::text(args, "path")) {
                        return Json{{"sink", sink}};
                    }
                }
                return answer;
            }

            Result<Json> try_request(
                const std::string& verb, const Json& args, int descriptor, Clock::time_point deadline,
                std::shared_ptr<Stream> opening = nullptr
            ) {
                std::unique_lock lock(_mutex);
                if (Error error = connected(lock); error.is_err()) {
                    return error;
                }
                const std::uint64_t id = ++_last_id;
                const auto message = control::encode({{"id", id}, {"verb", verb}, {"args", args}});
                if (message.is_err()) {
                    return message.error;
                }
                auto waiting = std::make_shared<Waiting>();
                waiting->opening = std::move(opening);
                _waiting[id] = waiting;
                // Sent under the lock, so that messages do not interleave; they are small, the socket has a time limit.
                if (!send(_socket, message.value, descriptor)) {
                    ::shutdown(_socket, SHUT_RDWR); // the watcher sees it too, and connects again
                }
                if (!_changed.wait_until(lock, deadline, [&] { return waiting->done; })) {
                    _waiting.erase(id);
                    return unavailable("the daemon does not answer `" + verb + "`", "see `rrd daemon logs`");
                }
                if (waiting->answer.error.code == "stopping") {
                    lock.unlock();
                    pause(milliseconds(50));
                    return Error{LOST, "", ""}; // said instead of doing it: the next daemon will
                }
                return waiting->answer;
            }

            /// Have a connection; makes one if there is none.
            Error connected(std::unique_lock<std::mutex>& lock) {
                const auto deadline = Clock::now() + RECONNECT_TIMEOUT;
                while (_phase != Phase::Up) {
                    const Error failure = recent_failure();
                    if (_phase == Phase::Busy) {
                        if (failure.is_err()) {
                            return failure;
                        }
                        _wanted = true;
                        _changed.notify_all();
                        if (_changed.wait_until(lock, deadline) == std::cv_status::timeout) {
                            return unavailable("the daemon has gone away", "start it: rrd daemon start");
                        }
                        continue;
                    }
                    _phase = Phase::Busy;
                    lock.unlock();
                    auto made = establish(failure);
                    lock.lock();
                    _phase = Phase::Down;
                    note(made.error);
                    _changed.notify_all();
                    if (made.is_err()) {
                        return made.error;
                    }
                    const int socket = made.value.socket.get();
                    if (!watch(std::move(made.value))) {
                        return unavailable("cannot start a thread");
                    }
                    up(socket);
                }
                return {};
            }

            /// A connection, and a daemon that answers on it; `failure` is what went wrong not long ago.
            static Result<Connection> establish(const Error& failure) {
                auto dialled = failure.is_err() ? dial() : dial_or_start();
                if (dialled.is_err()) {
                    return dialled.error;
                }
                if (!dialled.value) {
                    return failure;
                }
                return greet(std::move(dialled.value), failure.is_err() ? SHORT_TIMEOUT : milliseconds(HELLO_TIMEOUT));
            }

            /// Keep in mind that no daemon could be had.
            void note(const Error& error) {
                // Not when it was noted just before: the time counts from the last real try.
                if (error.code == "unavailable" && recent_failure().is_ok()) {
                    _failure = error;
                    _failed_at = Clock::now();
                }
            }

            Error recent_failure() const {
                return Clock::now() < _failed_at + TRY_AGAIN_AFTER ? _failure : Error{};
            }

            void up(int socket) {
                _failure = Error{};
                _socket = socket;
                _phase = Phase::Up;
                _wanted = _stopping = false;
                _changed.notify_all();
            }

            /// Say hello; neither side goes on with one that speaks another protocol.
            static Result<Connection> greet(Descriptor socket, milliseconds timeout) {
                Connection connection{std::move(socket), {}};
                const std::string agent = std::string("rrd-cpp ") + VERSION;
                const Json args = {
                    {"protocol", control::PROTOCOL}, {"agent", agent}, {"pid", static_cast<std::uint64_t>(::getpid())}};
                const auto message = control::encode({{"id", std::uint64_t{1}}, {"verb", "hello"}, {"args", args}});
                if (!send(connection.socket.get(), message.value, -1)) {
                    return unavailable("the daemon does not answer: " + describe(errno));
                }
                auto answer =
                    receive(connection, timeout, [](const Json& found) { return outcome(found).has_value(); });
                if (answer.is_err()) {
                    return answer.error;
                }
                const auto greeting = *outcome(answer.value);
                if (greeting.is_err()) {
                    return greeting.error;
                }
                if (const auto spoken = control::number(greeting.value, "protocol"); spoken != control::PROTOCOL) {
                    return Error{
                        "protocol",
                        "the daemon (rrd " + control::text(greeting.value, "version") + ") speaks protocol " +
                            std::to_string(spoken) + ", " + agent + " speaks " + std::to_string(control::PROTOCOL),
                        "rrd daemon restart, after an upgrade of either (nothing is lost)"};
                }
                return connection;
            }

            /// Read messages until one is wanted. Those before it are for `wanted` to see.
            static Result<Json> receive(
                Connection& connection, milliseconds timeout, const std::function<bool(const Json&)>& wanted
            ) {
                const auto deadline = Clock::now() + timeout;
                while (true) {
                    auto message = connection.decoder.next_message();
                    if (message.is_err()) {
                        return message.error;
                    }
                    if (!message.value.is_null()) {
                        if (wanted(message.value)) {
                            return message;
                        }
                        continue;
                    }
                    const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now()).count();
                    pollfd socket{connection.socket.get(), POLLIN, 0};
                    if (left <= 0 || (::poll(&socket, 1, static_cast<int>(left)) == 0)) {
                        return unavailable("the daemon does not answer", "see `rrd daemon logs`");
                    }
                    if (!read_some(connection)) {
                        return unavailable("the daemon hung up", "see `rrd daemon logs`");
                    }
                }
            }

            static bool read_some(Connection& connection) {
                std::uint8_t buffer[4096];
                const ssize_t count = ::recv(connection.socket.get(), buffer, sizeof buffer, 0);
                if (count > 0) {
                    connection.decoder.receive_data(buffer, static_cast<std::size_t>(count));
                }
                return count > 0 || (count < 0 && (errno == EINTR || errno == EAGAIN));
            }

            static bool send(int socket, const std::vector<std::uint8_t>& message, int descriptor) {
                alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
                std::size_t sent = 0;
                while (sent < message.size()) {
                    iovec part{const_cast<std::uint8_t*>(message.data()) + sent, message.size() - sent};
                    msghdr header{};
                    header.msg_iov = &part;
                    header.msg_iovlen = 1;
                    if (descriptor >= 0 && sent == 0) {
                        header.msg_control = space;
                        header.msg_controllen = sizeof space;
                        cmsghdr* rights = CMSG_FIRSTHDR(&header);
                        rights->cmsg_level = SOL_SOCKET;
                        rights->cmsg_type = SCM_RIGHTS;
                        rights->cmsg_len = CMSG_LEN(sizeof(int));
                        std::memcpy(CMSG_DATA(rights), &descriptor, sizeof descriptor);
                    }
                    const ssize_t count = ::sendmsg(socket, &header, MSG_NOSIGNAL);
                    if (count < 0 && errno != EINTR) {
                        return false;
                    }
                    sent += static_cast<std::size_t>(std::max<ssize_t>(count, 0));
                }
                return true;
            }

            /// The end of a request: its result or its error. Nothing for progress.
            static std::optional<Result<Json>> outcome(const Json& message) {
                if (auto result = control::map_of(message, "ok"); !result.is_null()) {
                    return Result<Json>(std::move(result));
                }
                const auto error = control::map_of(message, "error");
                if (error.is_null()) {
                    return std::nullopt;
                }
                std::string code = control::text(error, "code");
                return Result<Json>(Error{
                    code.empty() ? "failed" : std::move(code), control::text(error, "message"),
                    control::text(error, "hint")});
            }

            // -- the watcher

            /// Run something on a thread of its own that takes no signals. False if there is no thread to be had.
            static bool detach(std::function<void()> work) {
                sigset_t all;
                sigset_t before;
                sigfillset(&all);
                auto* owned = new std::function<void()>(std::move(work));
                pthread_sigmask(SIG_SETMASK, &all, &before);
                pthread_t thread;
                const auto run = [](void* work_) -> void* {
                    const std::unique_ptr<std::function<void()>> mine(static_cast<std::function<void()>*>(work_));
                    (*mine)();
                    return nullptr;
                };
                const bool started = pthread_create(&thread, nullptr, run, owned) == 0;
                pthread_sigmask(SIG_SETMASK, &before, nullptr);
                if (started) {
                    pthread_detach(thread);
                } else {
                    delete owned;
                }
                return started;
            }

            bool watch(Connection first) {
                auto shared = std::make_shared<Connection>(std::move(first));
                return detach([this, shared] {
                    do {
                        read(*shared);
                    } while (reconnect(*shared));
                });
            }

            /// Read until the connection ends.
            void read(Connection& connection) {
                do {
                    while (true) {
                        const auto message = connection.decoder.next_message();
                        if (message.is_err()) {
                            return;
                        }
                        if (message.value.is_null()) {
                            break;
                        }
                        received(message.value);
                    }
                } while (read_some(connection));
            }

            void received(const Json& message) {
                const std::string event = control::text(message, "event");
                const Json data = control::map_of(message, "data");
                if (event == "ended") {
                    ended(control::text(data, "stream"), control::text(data, "reason"));
                } else if (event == "stopping") {
                    const std::lock_guard lock(_mutex);
                    _stopping = true;
                } else if (auto result = outcome(message); event.empty() && result) {
                    const std::lock_guard lock(_mutex);
                    const auto found = _waiting.find(control::number(message, "id"));
                    if (found == _waiting.end()) {
                        return;
                    }
                    auto& waiting = *found->second;
                    if (waiting.opening && result->is_ok()) {
                        waiting.opening->id = control::text(result->value, "stream");
                        waiting.opening->log = control::text(result->value, "log");
                        _streams.push_back(waiting.opening);
                    }
                    waiting.answer = std::move(*result);
                    waiting.done = true;
                    _waiting.erase(found);
                    _changed.notify_all();
                }
            }

            void ended(const std::string& id, const std::string& reason) {
                std::shared_ptr<Stream> found;
                {
                    const std::lock_guard lock(_mutex);
                    const auto place = std::find_if(_streams.begin(), _streams.end(), [&](const auto& stream) {
                        return stream->id == id;
                    });
                    if (place == _streams.end()) {
                        return;
                    }
                    found = *place;
                    _streams.erase(place);
                }
                // The SDK may be about to close its end: only bytes that come after the end are worth a warning.
                if (found->pipe->in_use()) {
                    detach([found, reason] {
                        if (const auto dropped = found->pipe->drain(); dropped > 0) {
                            warn(
                                std::to_string(dropped) + " bytes of stream " + found->id +
                                " are lost: the daemon ended it: " + reason
                            );
                        }
                    });
                }
            }

            /// The connection is gone: get a new one and open all streams again. False: there is nothing to do it for.
            bool reconnect(Connection& connection) {
                bool stopped = false;
                {
                    const std::lock_guard lock(_mutex);
                    _socket = -1;
                    for (auto& [id, waiting] : _waiting) {
                        waiting->answer = Error{LOST, "", ""}; // those who wait say it again
                        waiting->done = true;
                    }
                    _waiting.clear();
                    _phase = Phase::Busy;
                    _wanted = false;
                    stopped = std::exchange(_stopping, false);
                    _changed.notify_all();
                }
                connection = Connection();
                const auto lost_at = Clock::now();
                milliseconds nap{20};
                bool started = false;
                bool warned = false;
                while (true) {
                    if (!wanted_streams()) {
                        return false;
                    }
                    auto dialled = dial();
                    const bool alone = dialled.is_ok() && !dialled.value && Clock::now() > lost_at + RESTART_AFTER;
                    if (alone && (take_wanted() || !(started || stopped))) {
                        started = true;
                        dialled = dial_or_start();
                        const std::lock_guard lock(_mutex);
                        note(dialled.error);
                        _changed.notify_all();
                    } else if (alone && stopped && !std::exchange(warned, true)) {
                        warn("the daemon was stopped; what is logged meanwhile is kept (`rrd daemon start` takes it up)");
                    }
                    Error error = dialled.error;
                    if (dialled.is_ok() && dialled.value) {
                        auto made = greet(std::move(dialled.value), HELLO_TIMEOUT);
                        error = made.error;
                        if (made.is_ok() && resume(made.value)) {
                            connection = std::move(made.value);
                            const std::lock_guard lock(_mutex);
                            up(connection.socket.get());
                            return true;
                        }
                    }
                    if (error.is_err() && !std::exchange(warned, true)) {
                        warn("the daemon died, and cannot be reached: " + error.description + "; what is logged is kept");
                    }
                    if (error.code == "protocol") {
                        // It was upgraded, and goes on reading the pipes without us.
                        const std::lock_guard lock(_mutex);
                        _phase = Phase::Down;
                        _changed.notify_all();
                        return false;
                    }
                    if (Clock::now() > lost_at + RESTART_AFTER && spill(streams()) > 0) {
                        nap = milliseconds(20);
                    }
                    std::unique_lock lock(_mutex);
                    if (!_wanted) {
                        _changed.wait_for(lock, nap);
                    } else {
                        lock.unlock();
                        pause(milliseconds(20));
                    }
                    nap = std::min(nap * 2, milliseconds(1000));
                }
            }

            bool take_wanted() {
                const std::lock_guard lock(_mutex);
                return std::exchange(_wanted, false);
            }

            /// Forget the streams that have nothing to say any more. False if there are none left.
            bool wanted_streams() {
                const std::lock_guard lock(_mutex);
                const auto over = [](const auto& stream) {
                    return !stream->pipe->in_use() && stream->pipe->unread() == 0;
                };
                _streams.erase(std::remove_if(_streams.begin(), _streams.end(), over), _streams.end());
                if (_streams.empty()) {
                    _phase = Phase::Down;
                    _changed.notify_all();
                }
                return !_streams.empty();
            }

            bool resume(Connection& connection) {
                for (const auto& stream : streams()) {
                    std::uint64_t id = 0;
                    {
                        const std::lock_guard lock(_mutex);
                        id = ++_last_id;
                    }
                    const auto message = control::encode({{"id", id}, {"verb", "open"}, {"args", open_args(*stream)}});
                    if (!send(connection.socket.get(), message.value, stream->pipe->reader())) {
                        return false;
                    }
                    const auto answer = receive(connection, HELLO_TIMEOUT, [&](const Json& found) {
                        const bool mine = control::number(found, "id") == id && outcome(found).has_value();
                        if (!mine) {
                            received(found);
                        }
                        return mine;
                    });
                    if (answer.is_err()) {
                        return false;
                    }
                    if (const auto opened = *outcome(answer.value); opened.error.code == "stopping") {
                        return false;
                    } else if (opened.is_err()) {
                        ended(stream->id, opened.error.description);
                    }
                }
                return true;
            }

            /// The program ends: let nothing stay in a pipe that nobody else holds.
            void leave() {
                const auto deadline = Clock::now() + EXIT_TIMEOUT;
                while (true) {
                    bool away = true;
                    {
                        const std::lock_guard lock(_mutex);
                        pollfd socket{_socket, 0, 0};
                        away = _phase != Phase::Up || ::poll(&socket, 1, 0) > 0;
                    }
                    const auto mine = streams();
                    const auto waits = [](const auto& stream) { return stream->pipe->unread() > 0; };
                    if (!away || std::none_of(mine.begin(), mine.end(), waits)) {
                        return;
                    }
                    if (Clock::now() > deadline) {
                        warn("the daemon does not answer; it may still get what this program logged last");
                        return;
                    }
                    spill(mine); // only what no keeper holds: its lock says so
                    pause(milliseconds(20));
                }
            }

            const pid_t _pid;
            std::mutex _opening;
            std::mutex _mutex; // guards all below
            std::condition_variable _changed;
            std::atomic<bool> _warned{false};
            Phase _phase = Phase::Down;
            int _socket = -1; // the watcher's
            std::map<std::uint64_t, std::shared_ptr<Waiting>> _waiting;
            std::uint64_t _last_id = 1;
            Streams _streams;
            Error _failure; // when, and why, no daemon could be had
            Clock::time_point _failed_at;
            bool _stopping = false; // the daemon said that it was told to stop
            bool _wanted = false; // somebody waits, so a daemon is to be started even if one was stopped
        };

        // -----------------------------------------------------------------------------------------------------------
        // What is asked of a recording

        /// What an SDK's function returned, as an error of ours. Nothing, and what says that it is fine, is none.
        template <typename Status>
        Error error_of(const Status& status) {
            if (status.is_ok()) {
                return {};
            }
            return {"sdk", status.description, ""};
        }

        template <typename Rec, typename = void>
        struct has_flush : std::false_type {};

        template <typename Rec>
        struct has_flush<Rec, std::void_t<decltype(std::declval<const Rec&>().flush_blocking())>> : std::true_type {};

        template <typename Rec, typename = void>
        struct has_switch : std::false_type {};

        template <typename Rec>
        struct has_switch<Rec, std::void_t<decltype(std::declval<const Rec&>().is_enabled())>> : std::true_type {};
    } // namespace detail

    /// What is asked of a recording: who it is, to save to a path, to flush, to write to stdout. This one is for
    /// `rerun::RecordingStream`, and for any type with its `save(path)`; specialize it for others.
    template <typename Rec>
    struct RecordingTraits {
        static detail::Identity identity(const Rec& rec) {
#ifdef RERUN_SDK_HEADER_VERSION
            const char* sdk = "rerun-sdk " RERUN_SDK_HEADER_VERSION " (c++)";
#else
            const char* sdk = "rerun-sdk (c++)";
#endif
            if constexpr (detail::has_switch<Rec>::value) {
                if (!rec.is_enabled()) {
                    return {};
                }
            }
            return {"at " + std::to_string(reinterpret_cast<std::uintptr_t>(&rec)), "", "", sdk};
        }

        static Error save(const Rec& rec, const std::string& path) {
            if constexpr (std::is_void_v<decltype(rec.save(path))>) {
                rec.save(path);
                return {};
            } else {
                return detail::error_of(rec.save(path));
            }
        }

        static Error flush(const Rec& rec) {
            if constexpr (detail::has_flush<Rec>::value) {
                if constexpr (std::is_void_v<decltype(rec.flush_blocking())>) {
                    rec.flush_blocking();
                } else {
                    return detail::error_of(rec.flush_blocking());
                }
            }
            return {};
        }

        static Error to_stdout(const Rec& rec) {
            return detail::error_of(rec.to_stdout());
        }
    };

    namespace detail {
        /// The recording's stream; opens it if there is none. Nothing: there is no daemon, and the user knows; or the
        /// recording is disabled.
        template <typename Rec>
        Result<std::shared_ptr<Stream>> opened(const Rec& rec) {
            const auto identity = RecordingTraits<Rec>::identity(rec);
            if (identity.key.empty()) {
                return std::shared_ptr<Stream>();
            }
            auto& link = Link::get();
            auto stream = link.open(identity, [&](const std::string& path) {
                return RecordingTraits<Rec>::save(rec, path);
            });
            if (stream.is_err() && is_no_daemon(stream.error)) {
                link.warn_no_daemon(stream.error);
                return std::shared_ptr<Stream>();
            }
            return stream;
        }

        template <typename Rec>
        Result<Output> add(const Rec& rec, const char* verb, Json args) {
            const auto stream = opened(rec);
            if (stream.is_err()) {
                return stream.error;
            }
            if (!stream.value) {
                return Output();
            }
            const std::string& id = stream.value->id;
            args["stream"] = id;
            if (std::string_view(verb) != "save") {
                args["source"] = Json::array({"stream:" + id});
            }
            const auto result = Link::get().request(verb, args, VERB_TIMEOUT);
            if (result.is_err()) {
                return result.error;
            }
            if (const auto warning = control::text(result.value, "warning"); !warning.empty()) {
                warn(warning);
            }
            const auto sink = control::text(control::map_of(result.value, "sink"), "id");
            const auto url = control::text(result.value, "url");
            return Output{
                id, sink.empty() ? control::text(result.value, "sink") : sink,
                url.empty() ? control::text(control::map_of(result.value, "viewer"), "url") : url};
        }

        inline std::string absolute(std::string_view path) {
            if (!path.empty() && path[0] == '/') {
                return std::string(path);
            }
            const std::unique_ptr<char, void (*)(void*)> here(::getcwd(nullptr, 0), &std::free);
            return std::string(here ? here.get() : "") + "/" + std::string(path);
        }
    } // namespace detail

    // ---------------------------------------------------------------------------------------------------------------
    // The verbs

    /// Stream a recording into the daemon, with no output yet: `rrd save` and the like may come later, from anywhere.
    template <typename Rec>
    Result<Output> attach(const Rec& rec) {
        const auto stream = detail::opened(rec);
        if (stream.is_err()) {
            return stream.error;
        }
        return Output{stream.value ? stream.value->id : "", "", ""};
    }

    template <typename Rec>
    Error flush(const Rec& rec, bool durable = false);

    /// Write a recording to a file: everything since it began, until it ends or is detached. Code "exists": there is a
    /// file already.
    template <typename Rec>
    Result<Output> save(const Rec& rec, std::string_view path, const SaveOptions& options = {}) {
        control::Json args = {{"path", detail::absolute(path)}, {"force", options.force}, {"copy", options.copy}};
        if (options.last != 0) {
            if (const auto attached = attach(rec); attached.is_err()) {
                return attached.error;
            }
            if (Error error = flush(rec); error.is_err()) { // what is on its way is the newest
                return error;
            }
            args["last"] = options.last;
        }
        return detail::add(rec, "save", std::move(args));
    }

    /// Show a recording in a viewer: one that is running, else a new one.
    template <typename Rec>
    Result<Output> spawn(const Rec& rec, const SpawnOptions& options = {}) {
        control::Json args = {{"new", options.new_viewer}, {"headless", options.headless}};
        if (options.port != 0) {
            args["port"] = options.port;
        }
        if (!options.executable.empty()) {
            args["executable"] = options.executable;
        }
        if (!options.memory_limit.empty()) {
            args["memory_limit"] = options.memory_limit;
        }
        return detail::add(rec, "spawn", std::move(args));
    }

    /// Where a viewer listens unless it was told otherwise.
    inline constexpr const char* DEFAULT_URL = "rerun+http://127.0.0.1:9876/proxy";

    /// Feed a viewer that runs elsewhere.
    template <typename Rec>
    Result<Output> connect(const Rec& rec, std::string_view url = DEFAULT_URL) {
        return detail::add(rec, "connect", {{"url", std::string(url)}});
    }

    /// Serve a recording to browsers. `Output::url` is the page.
    template <typename Rec>
    Result<Output> serve(const Rec& rec, const ServeOptions& options = {}) {
        control::Json args = control::Json::object();
        if (options.port != 0) {
            args["port"] = options.port;
        }
        if (!options.bind.empty()) {
            args["bind"] = options.bind;
        }
        if (options.open_browser) {
            args["open"] = *options.open_browser;
        }
        return detail::add(rec, "serve", std::move(args));
    }

    /// Write a recording to standard output, from the SDK itself: the daemon has no part in it. Code "refused": it is
    /// attached already (`rrd tail` in a shell writes it to stdout).
    template <typename Rec>
    Error to_stdout(const Rec& rec) {
        if (detail::Link::get().stream_of(RecordingTraits<Rec>::identity(rec).key)) {
            return {"refused", "the recording is in the daemon's hands, stdout would end that", "in a shell: rrd tail -f"};
        }
        return RecordingTraits<Rec>::to_stdout(rec);
    }

    /// Return when all that was logged before is in the daemon's log; if durable, in the files, too, fsynced.
    /// Without a daemon it returns at once.
    template <typename Rec>
    Error flush(const Rec& rec, bool durable) {
        auto& link = detail::Link::get();
        const auto key = RecordingTraits<Rec>::identity(rec).key;
        if (key.empty() || link.streams().empty()) {
            return {};
        }
        if (Error error = RecordingTraits<Rec>::flush(rec); error.is_err()) {
            return error;
        }
        control::Json args = {{"durable", durable}};
        // One that was moved has a stream under its old address: without a name, all streams of the program are meant.
        if (const auto stream = link.stream_of(key)) {
            args["streams"] = control::Json::array({stream->id});
        }
        return link.request("sync", args, detail::FLUSH_TIMEOUT).error;
    }

    /// Remove an output, by `Output::sink`. Its file is completed.
    inline Error detach(const std::string& sink) {
        return detail::Link::get().request("detach", {{"sink", sink}}, detail::VERB_TIMEOUT).error;
    }

    // ---------------------------------------------------------------------------------------------------------------
    // The flags of a Rerun program

    /// Where the recording goes, from the command line: any number of outputs together.
    ///
    ///     int main(int argc, char** argv) {
    ///         const auto args = rrd::Args::parse(argc, argv).value_or_exit();   // the program's own flags stay in argv
    ///         rerun::RecordingStream rec("my_app");
    ///         args.apply(rec).value_or_exit();
    struct Args {
        bool spawn = false;
        std::vector<std::string> save;
        bool force = false;
        bool to_stdout = false;
        std::optional<std::string> connect;
        bool serve = false;
        std::string bind;
        bool headless = false;

        /// For a program's own --help.
        static const char* help() {
            return "      --spawn          show the data in a viewer: one that is running, else a new one (the default)\n"
                   "      --save PATH      save the data to an .rrd file; may be given several times\n"
                   "      --force          overwrite the files of --save\n"
                   "  -o, --stdout         write the data to standard output\n"
                   "      --connect [URL]  feed a viewer that is running [default: rerun+http://127.0.0.1:9876/proxy]\n"
                   "      --serve          serve the data to browsers, and open one\n"
                   "      --bind ADDRESS   what address to serve on [default: 127.0.0.1]\n"
                   "      --headless       no output now: the daemon keeps the recording\n";
        }

        /// Take the flags above out of argv, and leave the program's own where they are. Nothing is taken after "--".
        static Result<Args> parse(int& argc, char** argv) {
            Args args;
            int kept = argc > 0 ? 1 : 0;
            int index = kept;
            for (; index < argc && std::string_view(argv[index]) != "--"; ++index) {
                const std::string_view word = argv[index];
                const std::size_t sign = word.find('=');
                const std::string_view name = word.substr(0, sign);
                std::optional<std::string_view> value;
                if (sign != std::string_view::npos) {
                    value = word.substr(sign + 1);
                }
                const std::string_view next = index + 1 < argc ? argv[index + 1] : "";
                if (bool* flag = args.flag_of(name)) {
                    if (value) {
                        return Error{"usage", std::string(name) + " takes no value", ""};
                    }
                    *flag = true;
                } else if (name == "--save" || name == "--bind") {
                    if (!value && !next.empty()) {
                        value = next;
                        ++index;
                    }
                    if (!value || value->empty()) {
                        return Error{"usage", std::string(name) + " needs a value", ""};
                    }
                    name == "--save" ? (void)args.save.emplace_back(*value) : (void)(args.bind = *value);
                } else if (name == "--connect") {
                    if (!value && next.find("://") != std::string_view::npos) {
                        value = next;
                        ++index;
                    }
                    args.connect = std::string(value.value_or(DEFAULT_URL));
                } else {
                    argv[kept++] = argv[index];
                }
            }
            for (; index < argc; ++index) {
                argv[kept++] = argv[index];
            }
            if (kept < argc) {
                argv[kept] = nullptr;
            }
            argc = kept;
            if (args.to_stdout && (args.spawn || args.serve || args.headless || args.connect || !args.save.empty())) {
                return Error{"usage", "--stdout goes with no other output", ""};
            }
            return args;
        }

        /// Give a recording the outputs that were asked for: a viewer if there were none.
        template <typename Rec>
        Result<std::vector<Output>> apply(const Rec& rec) const {
            std::vector<Output> outputs;
            if (to_stdout) {
                if (Error error = rrd::to_stdout(rec); error.is_err()) {
                    return error;
                }
                return outputs;
            }
            std::vector<std::function<Result<Output>()>> todo;
            if (spawn || !(connect || serve || headless || !save.empty())) {
                todo.emplace_back([&]() -> Result<Output> {
                    auto output = rrd::spawn(rec);
                    if (output.is_ok() || spawn) {
                        return output;
                    }
                    // Nobody said --spawn: a robot without a screen must not stop for it.
                    detail::warn(
                        "no viewer: " + detail::in_words(output.error) +
                        "; the program goes on, what it logs is kept (--headless asks for no viewer)"
                    );
                    return rrd::attach(rec);
                });
            }
            if (connect) {
                todo.emplace_back([&] { return rrd::connect(rec, *connect); });
            }
            if (serve) {
                todo.emplace_back([&] {
                    auto output = rrd::serve(rec, {0, bind, true});
                    if (output.is_ok() && !output.value.url.empty()) {
                        std::fprintf(stderr, "%s\n", output.value.url.c_str());
                    }
                    return output;
                });
            }
            for (const auto& path : save) {
                todo.emplace_back([&] { return rrd::save(rec, path, {force, false, 0}); });
            }
            if (todo.empty()) {
                todo.emplace_back([&] { return rrd::attach(rec); });
            }
            for (const auto& step : todo) {
                auto output = step();
                if (output.is_err()) {
                    return output.error;
                }
                outputs.push_back(std::move(output.value));
            }
            return outputs;
        }

      private:
        bool* flag_of(std::string_view name) {
            return name == "--spawn"                      ? &spawn
                   : name == "--force"                    ? &force
                   : name == "--serve"                    ? &serve
                   : name == "--headless"                 ? &headless
                   : name == "--stdout" || name == "-o"   ? &to_stdout
                                                          : nullptr;
        }
    };
} // namespace rrd
