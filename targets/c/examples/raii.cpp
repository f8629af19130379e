// The C++ face: continue a text. Compiled with DRUPE_HOSTED, within what memory the machine has.
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>
#include "drupe.hpp"

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    try {
#ifdef DRUPE_HOSTED
        drupe_cpp::file file(argv[1]);
        drupe_cpp::session session(file, 512);
        std::fprintf(stderr, "%s\n", session.budget().line);
#else
        std::ifstream file(argv[1], std::ios::binary);
        std::vector<char> model((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
        drupe_cpp::session session(model.data(), model.size(), 512);
#endif
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
