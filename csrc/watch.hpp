// Memory that may be a mapped file, watched while it is read: where the file has become shorter, the
// system sends SIGBUS, which would end the process.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace pdepth {

using Range = std::pair<uintptr_t, uintptr_t>;  // addresses: the first, and that after the last
struct Watched;

// While one lives, a read beyond a file's end within its ranges finds zeros. They are not to be
// used: `cut` says so. Once no watch lives such memory cannot be read at all, and a later watch of
// it is cut from the start, as long as it is among the last 1,024 that were lost. Any number of
// threads may read, and any number of watches live; beyond `kMost` of them, and without SIGBUS,
// nothing is watched.
class Watch {
public:
    explicit Watch(std::vector<Range> ranges);
    ~Watch();
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;

    // A range of which something could not be read, or -1; also after the watch has ended.
    int64_t cut() const;
    void close();

    static constexpr int kMost = 256;

private:
    std::unique_ptr<Watched> watched_;
    int slot_ = -1;
    int64_t cut_ = -1;
};

}  // namespace pdepth
