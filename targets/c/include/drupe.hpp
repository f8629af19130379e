// drupe.hpp: drupe.h for C++17. Owns the memory of a handle; throws drupe_cpp::error. (The C type has the name drupe.)
#ifndef DRUPE_HPP
#define DRUPE_HPP

#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>
#include "drupe.h"

namespace drupe_cpp {

struct error : std::runtime_error {
    int code;
    error(int code, const std::string &details)
        : std::runtime_error(std::string(drupe_error_text(code)) + (details.empty() ? "" : ": " + details)), code(code) {}
};

// A model with its session. `model` must outlive it.
class session {
public:
    session(const void *model, std::size_t len, std::uint32_t ctx = 2048) {
        char message[256] = "";
        drupe_options options;
        drupe_options_init(&options, sizeof options);
        options.ctx = ctx;
        options.message = message;
        options.message_size = sizeof message;
        drupe_bytes part{model, len};
        drupe_plan_info plan{};
        plan.struct_size = sizeof plan;
        if (int code = drupe_plan(&part, 1, &options, &plan)) throw error(code, message);
        memory_.resize(plan.memory + plan.alignment);
        if (int code = drupe_init(memory_.data(), memory_.size(), &part, 1, &options, nullptr, &handle_))
            throw error(code, message);
    }
    session(const session &) = delete;
    session &operator=(const session &) = delete;
    ~session() { drupe_close(handle_); }

    std::vector<std::uint32_t> tokenize(std::string_view text, std::uint32_t flags = DRUPE_ADD_BOS) {
        std::vector<std::uint32_t> tokens(text.size() + 3);
        std::size_t count = 0;
        check(drupe_tokenize(handle_, text.data(), text.size(), flags, tokens.data(), tokens.size(), &count));
        tokens.resize(count);
        return tokens;
    }
    void feed(const std::vector<std::uint32_t> &tokens) { check(drupe_feed(handle_, tokens.data(), tokens.size())); }
    std::uint32_t sample() {
        std::uint32_t token = 0;
        check(drupe_sample(handle_, &token));
        return token;
    }
    // Calls say(text) with each piece; it returns true to stop. What it throws is thrown here.
    std::uint64_t generate(std::uint64_t most, const std::function<bool(std::string_view)> &say) {
        struct listener {
            const std::function<bool(std::string_view)> &say;
            std::exception_ptr thrown;
        } listener{say, nullptr};
        std::uint64_t count = 0;
        auto call = [](void *user, const char *text, std::size_t len) -> int {
            auto *to = static_cast<struct listener *>(user);
            try {
                return to->say({text, len});
            } catch (...) {
                to->thrown = std::current_exception();
                return 1;
            }
        };
        int code = drupe_generate(handle_, most, call, &listener, &count);
        if (listener.thrown) std::rethrow_exception(listener.thrown);
        check(code);
        return count;
    }
    drupe *handle() { return handle_; }

private:
    void check(int code) {
        if (code == DRUPE_OK) return;
        char text[256] = "";
        drupe_last_error(handle_, text, sizeof text);
        throw error(code, text);
    }
    std::vector<unsigned char> memory_;
    drupe *handle_ = nullptr;
};

}  // namespace drupe_cpp

#endif
