// The C++ face: continue a text.
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>
#include "drupe.hpp"

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    std::ifstream file(argv[1], std::ios::binary);
    std::vector<char> model((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    try {
        drupe_cpp::session session(model.data(), model.size(), 512);
        session.feed(session.tokenize(argc > 2 ? argv[2] : "Once upon a time"));
        session.generate(60, [](std::string_view text) {
            std::fwrite(text.data(), 1, text.size(), stdout);
            return false;
        });
        std::puts("");
    } catch (const drupe_cpp::error &e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 1;
    }
}
