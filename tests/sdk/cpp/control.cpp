// The codec is held to the vectors of tests/data/control/, like every language's; its README says what they mean.
// The argument parser is here, too. Argument: that directory. Says what failed, and ends with the number of failures.
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "rrd.hpp"

namespace {
    using rrd::control::Json;
    using Bytes = std::vector<std::uint8_t>;

    int failures = 0;
    int checks = 0;

    void check(bool fine, const std::string& what) {
        ++checks;
        if (!fine) {
            ++failures;
            std::cerr << "FAILED: " << what << std::endl;
        }
    }

    Bytes bytes_of(const Json& vector) {
        const auto hex = vector.at("hex").get<std::string>();
        Bytes bytes;
        for (std::size_t at = 0; at < hex.size(); at += 2) {
            bytes.push_back(static_cast<std::uint8_t>(std::stoul(hex.substr(at, 2), nullptr, 16)));
        }
        return bytes;
    }

    /// All messages in some bytes, fed in pieces; the last is null if they are no messages.
    std::vector<Json> decode(const Bytes& bytes, std::size_t piece) {
        rrd::control::Decoder decoder;
        std::vector<Json> found;
        for (std::size_t at = 0; at < bytes.size(); at += piece) {
            decoder.receive_data(bytes.data() + at, std::min(piece, bytes.size() - at));
            while (true) {
                const auto message = decoder.next_message();
                if (message.is_err()) {
                    found.push_back(Json());
                    return found;
                }
                if (message.value.is_null()) {
                    break;
                }
                found.push_back(message.value);
            }
        }
        return found;
    }

    Json vectors(const std::string& directory, const char* name) {
        Json found = Json::parse(std::ifstream(directory + "/" + name));
        check(found.size() > 10, std::string("too few vectors in ") + name);
        return found;
    }

    void test_vectors(const std::string& directory) {
        for (const auto& vector : vectors(directory, "encode.json")) {
            const auto name = vector.at("name").get<std::string>();
            const auto bytes = bytes_of(vector);
            const auto encoded = rrd::control::encode(vector.at("message"));
            check(encoded.is_ok() && encoded.value == bytes, "encode " + name);
            check(decode(bytes, bytes.size()) == std::vector<Json>{vector.at("message")}, "decode the encoded " + name);
        }
        for (const auto& vector : vectors(directory, "decode.json")) {
            const auto bytes = bytes_of(vector);
            const auto expected = vector.at("messages").get<std::vector<Json>>();
            for (const std::size_t piece : {std::size_t{1}, std::size_t{3}, bytes.size() + 1}) {
                check(decode(bytes, piece) == expected, "decode " + vector.at("name").get<std::string>());
            }
        }
        for (const auto& vector : vectors(directory, "errors.json")) {
            const auto bytes = bytes_of(vector);
            for (const std::size_t piece : {std::size_t{1}, bytes.size()}) {
                const auto found = decode(bytes, piece);
                check(!found.empty() && found.back().is_null(), "refuse " + vector.at("name").get<std::string>());
            }
        }
    }

    void test_limit() {
        const auto sized = [](std::size_t size) { return rrd::control::encode({{"a", std::string(size, 'x')}}); };
        check(sized((1 << 20) - 8).value.size() == 4 + (1 << 20), "the longest message");
        check(sized((1 << 20) - 7).is_err(), "a longer one");
    }

    void test_what_is_not_utf8() {
        const auto encoded = rrd::control::encode({{"args", {{"paths", {"fine", "/x/\xff\xe2\x82.rrd"}}}}});
        check(encoded.error.code == "usage", "refused before it is sent");
        check(encoded.error.description == "not UTF-8: /x/???.rrd", encoded.error.description);
        check(rrd::control::detail::in_utf8("\xc3\xa9\xf0\x9f\x98\x80\xff") == "\xc3\xa9\xf0\x9f\x98\x80?", "text stays");
    }

    struct Parsed {
        rrd::Result<rrd::Args> args{rrd::Args()};
        std::string rest;
    };

    Parsed parse(std::vector<std::string> words) {
        words.insert(words.begin(), "program");
        std::vector<char*> argv;
        for (auto& word : words) {
            argv.push_back(word.data());
        }
        argv.push_back(nullptr);
        int argc = static_cast<int>(words.size());
        Parsed parsed{rrd::Args::parse(argc, argv.data()), ""};
        for (int index = 1; index < argc; ++index) {
            parsed.rest += std::string(index > 1 ? " " : "") + argv[static_cast<std::size_t>(index)];
        }
        check(argv[static_cast<std::size_t>(argc)] == nullptr, "argv ends with a null pointer");
        return parsed;
    }

    void test_args() {
        const auto own = parse({"--mine", "x", "--save", "a.rrd", "in.png", "--save=b.rrd", "--force", "-v"});
        check(own.rest == "--mine x in.png -v", "the program's own arguments stay: " + own.rest);
        check(own.args.value.save == std::vector<std::string>{"a.rrd", "b.rrd"} && own.args.value.force, "two files");
        check(parse({"--connect", "in.png"}).args.value.connect == rrd::DEFAULT_URL, "connect to the default");
        check(parse({"--connect", "in.png"}).rest == "in.png", "what is no URL is not taken for one");
        check(parse({"--connect", "rerun+http://h:1/proxy"}).args.value.connect == "rerun+http://h:1/proxy", "a URL");
        check(parse({"--", "--spawn"}).rest == "-- --spawn", "nothing is taken after --");
        check(parse({"-o"}).args.value.to_stdout, "-o");
        check(parse({"-o", "--spawn"}).args.is_err(), "stdout goes with nothing else");
        check(parse({"--save"}).args.is_err(), "--save needs a value");
        check(parse({"--spawn=1"}).args.is_err(), "--spawn takes none");
        check(parse({}).args.is_ok() && parse({}).rest.empty(), "nothing");
    }
} // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::cerr << "usage: " << argv[0] << " DIRECTORY" << std::endl;
        return 2;
    }
    test_vectors(argv[1]);
    test_limit();
    test_what_is_not_utf8();
    test_args();
    std::cout << checks - failures << " passed, " << failures << " failed" << std::endl;
    return failures == 0 ? 0 : 1;
}
