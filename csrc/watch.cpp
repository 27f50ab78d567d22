#include "watch.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <thread>

#include "fork_mutex.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>
#define PDEPTH_WATCHES 1
#endif

namespace pdepth {

#ifdef PDEPTH_WATCHES
namespace {

uintptr_t page_size = 0;

uintptr_t page_of(uintptr_t address) { return address / page_size * page_size; }

bool overlaps(const Range& range, uintptr_t begin, uintptr_t end) {
    return range.first < end && begin < range.second;
}

// Asks whether pages can be read by writing from them to a pipe, where a read would end the process.
class Reader {
public:
    Reader() : open_(pipe(ends_) == 0) {}
    ~Reader() {
        if (!open_) return;
        close(ends_[0]);
        close(ends_[1]);
    }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    bool can_read(uintptr_t address) const {
        return open_ && write(ends_[1], reinterpret_cast<const void*>(address), 1) == 1;
    }

    // The first of the pages up to `lost` that cannot be read, as are all from there to `lost`.
    // `lost` itself where the process may open no pipe.
    uintptr_t first_lost(uintptr_t first, uintptr_t lost) const {
        if (!open_) return lost;
        while (first < lost) {
            const uintptr_t middle = page_of(first + (lost - first) / 2);
            if (can_read(middle))
                first = middle + page_size;
            else
                lost = middle;
        }
        return lost;
    }

private:
    int ends_[2];
    bool open_;
};

}  // namespace

// What a watch reads. The signal's handler allocates and frees nothing of it.
struct Watched {
    struct Loss {  // pages of a range in which zeros stand in a file's place; none where end is 0
        std::atomic<uintptr_t> begin{UINTPTR_MAX}, end{0};
    };

    explicit Watched(std::vector<Range> given) : ranges(std::move(given)), losses(ranges.size()) {}

    bool overlaps(uintptr_t begin, uintptr_t end) const {
        return std::any_of(ranges.begin(), ranges.end(), [=](const Range& range) {
            return pdepth::overlaps(range, begin, end);
        });
    }

    // Notes lost pages in the ranges that have some of them.
    void lose(uintptr_t begin, uintptr_t end) {
        for (std::size_t i = 0; i < ranges.size(); i++) {
            if (!pdepth::overlaps(ranges[i], begin, end)) continue;
            int64_t none = -1;
            cut.compare_exchange_strong(none, static_cast<int64_t>(i));
            const uintptr_t from = std::max(begin, page_of(ranges[i].first));
            const uintptr_t to = std::min(end, page_of(ranges[i].second + page_size - 1));
            uintptr_t before = losses[i].begin;
            while (from < before && !losses[i].begin.compare_exchange_weak(before, from)) {
            }
            before = losses[i].end;
            while (to > before && !losses[i].end.compare_exchange_weak(before, to)) {
            }
        }
    }

    const std::vector<Range> ranges;
    std::vector<Loss> losses;  // one a range
    std::atomic<int64_t> cut{-1};
};

namespace {

std::atomic<Watched*> slots[Watch::kMost];
std::atomic<int> handlers{0};  // that run
ForkMutex mutex;               // of watches as they begin and end, and of what follows
int watches = 0;
struct sigaction before;
constexpr int kMostClosed = 1024;
Range closed[kMostClosed];  // memory that can no longer be read, the latest last
int closed_count = 0;

void forget(int i) { std::move(closed + i + 1, closed + closed_count--, closed + i); }

// Zeros in the place of all that cannot be read of the range that holds an address. False where no
// range does. All at once: a copy may read from the last page to the first.
bool replace(uintptr_t address) {
    uintptr_t begin = address, end = 0;
    for (const auto& slot : slots)
        if (const Watched* watched = slot)
            for (const Range& range : watched->ranges)
                if (overlaps(range, address, address + 1)) {
                    begin = std::min(begin, range.first);
                    end = std::max(end, range.second);
                }
    if (!end) return false;
    begin = Reader().first_lost(page_of(begin), page_of(address));
    end = page_of(end + page_size - 1);
    for (const auto& slot : slots)
        if (Watched* watched = slot) watched->lose(begin, end);
    void* const place = reinterpret_cast<void*>(begin);
    return mmap(place, end - begin, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON | MAP_FIXED, -1,
                0) == place;
}

void handle(int signal, siginfo_t* info, void* context) {
    const int error = errno;  // of the code that was interrupted
    handlers++;
    const bool mine = info->si_code == BUS_ADRERR &&
                      replace(reinterpret_cast<uintptr_t>(info->si_addr));
    handlers--;
    errno = error;
    if (mine) return;
    if (before.sa_flags & SA_SIGINFO)
        before.sa_sigaction(signal, info, context);
    else if (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN)
        sigaction(signal, &before, nullptr);  // the read is tried again, and ends the process
    else
        before.sa_handler(signal);
}

// Notes in a new watch what others have lost; forgets what has been mapped anew since.
void find_lost(Watched& watched) {
    for (const auto& slot : slots)
        if (const Watched* other = slot)
            for (const Watched::Loss& loss : other->losses)
                if (loss.end) watched.lose(loss.begin, loss.end);
    for (int i = closed_count - 1; i >= 0; i--) {
        const Range old = closed[i];
        for (const Range& range : watched.ranges) {
            if (!overlaps(range, old.first, old.second)) continue;
            if (Reader().can_read(std::max(range.first, old.first))) {
                forget(i);
                break;
            }
            watched.lose(old.first, old.second);
        }
    }
}

// What a watch that has ended lost cannot be read from now on, unless another watch reads it still.
// Nobody else can have mapped anything there: the array that was watched lives.
void close_lost(uintptr_t begin, uintptr_t end) {
    const bool read = std::any_of(std::begin(slots), std::end(slots), [=](const auto& slot) {
        const Watched* watched = slot;
        return watched && watched->overlaps(begin, end);
    });
    if (read) return;
    mprotect(reinterpret_cast<void*>(begin), end - begin, PROT_NONE);
    for (int i = 0; i < closed_count; i++)
        if (closed[i].first <= begin && end <= closed[i].second) return;
    if (closed_count == kMostClosed) forget(0);
    closed[closed_count++] = {begin, end};
}

}  // namespace

Watch::Watch(std::vector<Range> ranges) : watched_(new Watched(std::move(ranges))) {
    const std::lock_guard<ForkMutex> lock(mutex);
    for (int i = 0; i < kMost && slot_ < 0; i++)
        if (!slots[i]) slot_ = i;
    if (slot_ < 0) return;
    if (watches++ == 0) {
        page_size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
        struct sigaction action {};
        action.sa_sigaction = handle;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGBUS, &action, &before);
    }
    slots[slot_] = watched_.get();
    find_lost(*watched_);
}

Watch::~Watch() { close(); }

void Watch::close() {
    if (slot_ < 0) return;
    const std::lock_guard<ForkMutex> lock(mutex);
    slots[slot_] = nullptr;
    while (handlers) std::this_thread::yield();  // one may still read the ranges
    cut_ = watched_->cut;
    slot_ = -1;
    for (const Watched::Loss& loss : watched_->losses)
        if (loss.end) close_lost(loss.begin, loss.end);
    if (--watches > 0) return;
    struct sigaction present;
    sigaction(SIGBUS, nullptr, &present);
    if ((present.sa_flags & SA_SIGINFO) && present.sa_sigaction == handle)
        sigaction(SIGBUS, &before, nullptr);
}

int64_t Watch::cut() const { return slot_ < 0 ? cut_ : watched_->cut.load(); }

#else
struct Watched {};
Watch::Watch(std::vector<Range>) {}
Watch::~Watch() = default;
void Watch::close() {}
int64_t Watch::cut() const { return -1; }
#endif

}  // namespace pdepth
