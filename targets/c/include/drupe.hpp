// drupe.hpp: drupe.h for C++17. Owns the memory of a handle; throws drupe_cpp::error. (The C type has the name drupe.)
#ifndef DRUPE_HPP
#define DRUPE_HPP

#include <exception>
#include <functional>
#include <memory>
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

#ifdef DRUPE_HOSTED
// A model's files, mapped.
class file {
public:
    explicit file(const std::string &path) {
        char message[256] = "";
        if (int code = drupe_file_open(path.c_str(), &file_, &parts, &count, message, sizeof message))
            throw error(code, message);
    }
    file(const file &) = delete;
    file &operator=(const file &) = delete;
    ~file() { drupe_file_close(file_); }
    const drupe_file *get() const { return file_; }
    const drupe_bytes *parts = nullptr;
    std::size_t count = 0;

private:
    drupe_file *file_ = nullptr;
};
#endif

// A model with its session. `model` must outlive it.
class session {
public:
    session(const void *model, std::size_t len, std::uint32_t ctx = 2048) {
        drupe_bytes part{model, len};
        build(&part, 1, ctx, 0);
    }
#ifdef DRUPE_HOSTED
    // Within `memory` bytes for the whole process, 0 for what the machine allows: see drupe_budget_open.
    explicit session(const file &model, std::uint32_t ctx = 2048, std::uint64_t memory = 0) {
        build(model.parts, model.count, ctx, memory);
        check(drupe_budget_open(handle_, model.get(), 0, &budget_.made));
        check(drupe_use_budget(handle_, budget_.made));
    }
    drupe_budget_info budget() const {
        drupe_budget_info info{};
        info.struct_size = sizeof info;
        if (int code = drupe_budget_get_info(budget_.made, &info)) throw error(code, "");
        return info;
    }
#endif
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
    void build(const drupe_bytes *parts, std::size_t count, std::uint32_t ctx, std::uint64_t most) {
        char message[256] = "";
        drupe_options options;
        drupe_options_init(&options, sizeof options);
        options.ctx = ctx;
        options.memory = most;
        options.message = message;
        options.message_size = sizeof message;
        drupe_plan_info plan{};
        plan.struct_size = sizeof plan;
        if (int code = drupe_plan(parts, count, &options, &plan)) throw error(code, message);
        memory_.reset(new unsigned char[plan.memory + plan.alignment]);
        if (int code = drupe_init(memory_.get(), plan.memory + plan.alignment, parts, count, &options, nullptr, &handle_))
            throw error(code, message);
    }
    void check(int code) {
        if (code == DRUPE_OK) return;
        char text[256] = "";
        drupe_last_error(handle_, text, sizeof text);
        throw error(code, text);
    }
    // Not written to before it is needed.
    std::unique_ptr<unsigned char[]> memory_;
    drupe *handle_ = nullptr;
#ifdef DRUPE_HOSTED
    struct owned_budget {
        drupe_budget *made = nullptr;
        ~owned_budget() { drupe_budget_close(made); }
    } budget_;
#endif
};

}  // namespace drupe_cpp

#endif
