#include "watch.hpp"

#include <algorithm>
#include <atomic>
#include <iterator>
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

// What the signal's handler reads: nothing of it is allocated or freed while the handler runs.
struct Slot {
    std::atomic<const std::vector<Range>*> ranges{nullptr};
    std::atomic<int64_t> cut{-1};
};
struct Lost {  // memory in a file's place, from the first page that could not be read
    enum State { zeros, unreadable };
    std::atomic<uintptr_t> begin{0}, end{0};
    std::atomic<int> state{zeros};
};
constexpr int kMostLost = 256;

Slot slots[Watch::kMost];
Lost lost[kMostLost];
std::atomic<int> lost_count{0};
std::atomic<int> handlers{0};  // that run
ForkMutex mutex;               // of watches as they begin and end
int watches = 0;
uintptr_t page_size = 0;
struct sigaction before;

int lost_entries() { return std::min(kMostLost, lost_count.load()); }

bool overlaps(const Range& range, uintptr_t begin, uintptr_t end) {
    return range.first < end && begin < range.second;
}

void mark(Slot& slot, const std::vector<Range>& ranges, uintptr_t begin, uintptr_t end) {
    for (std::size_t i = 0; i < ranges.size(); i++)
        if (overlaps(ranges[i], begin, end)) {
            int64_t none = -1;
            slot.cut.compare_exchange_strong(none, static_cast<int64_t>(i));
            return;
        }
}

// Zeros from the page of `address` to the end of the range that holds it. False where none does.
bool replace(uintptr_t address) {
    uintptr_t end = 0;
    for (Slot& slot : slots)
        if (const std::vector<Range>* ranges = slot.ranges)
            for (const Range& range : *ranges)
                if (overlaps(range, address, address + 1)) end = std::max(end, range.second);
    if (!end) return false;
    const uintptr_t begin = address / page_size * page_size;
    end = (end + page_size - 1) / page_size * page_size;
    const int number = lost_count.fetch_add(1);
    if (number >= kMostLost) return false;
    for (Slot& slot : slots)
        if (const std::vector<Range>* ranges = slot.ranges) mark(slot, *ranges, begin, end);
    lost[number].state = Lost::zeros;
    lost[number].begin = begin;
    lost[number].end = end;
    void* const place = reinterpret_cast<void*>(begin);
    return mmap(place, end - begin, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON | MAP_FIXED, -1,
                0) == place;
}

void handle(int signal, siginfo_t* info, void* context) {
    handlers++;
    const bool mine = info->si_code == BUS_ADRERR &&
                      replace(reinterpret_cast<uintptr_t>(info->si_addr));
    handlers--;
    if (mine) return;
    if (before.sa_flags & SA_SIGINFO)
        before.sa_sigaction(signal, info, context);
    else if (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN)
        sigaction(signal, &before, nullptr);  // the read is tried again, and ends the process
    else
        before.sa_handler(signal);
}

// Whether memory can be read: a pipe's write says so, where a read would end the process.
bool readable(uintptr_t address) {
    int ends[2];
    if (pipe(ends) != 0) return false;
    const bool written = write(ends[1], reinterpret_cast<const void*>(address), 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return written;
}

bool overlaps(const std::vector<Range>& ranges, uintptr_t begin, uintptr_t end) {
    return std::any_of(ranges.begin(), ranges.end(), [=](const Range& range) {
        return overlaps(range, begin, end);
    });
}

// Marks a new watch of memory that an earlier one lost; forgets what has been mapped anew since.
void mark_lost(Slot& slot, const std::vector<Range>& ranges) {
    for (int i = 0; i < lost_entries(); i++) {
        const uintptr_t begin = lost[i].begin, end = lost[i].end;
        for (const Range& range : ranges) {
            if (!overlaps(range, begin, end)) continue;
            if (lost[i].state == Lost::zeros || !readable(std::max(range.first, begin)))
                mark(slot, ranges, begin, end);
            else
                lost[i].end = begin;
        }
    }
}

// What a watch that ends has lost cannot be read from now on, unless another watch reads it still.
// Nobody else can have mapped anything there: the array that was watched lives.
void close_lost(const std::vector<Range>& ranges) {
    for (int i = 0; i < lost_entries(); i++) {
        const uintptr_t begin = lost[i].begin, end = lost[i].end;
        if (lost[i].state != Lost::zeros || !overlaps(ranges, begin, end)) continue;
        const bool read = std::any_of(std::begin(slots), std::end(slots), [=](const Slot& slot) {
            return slot.ranges && overlaps(*slot.ranges, begin, end);
        });
        if (read) continue;
        mprotect(reinterpret_cast<void*>(begin), end - begin, PROT_NONE);
        lost[i].state = Lost::unreadable;
    }
}

// Room for more, while no handler can run: the latest half is kept.
void forget() {
    int kept = 0;
    for (int i = std::max(0, lost_entries() - kMostLost / 2); i < lost_entries(); i++) {
        if (lost[i].begin == lost[i].end) continue;
        lost[kept].begin = lost[i].begin.load();
        lost[kept].end = lost[i].end.load();
        lost[kept++].state = lost[i].state.load();
    }
    lost_count = kept;
}

}  // namespace

Watch::Watch(std::vector<Range> ranges) : ranges_(std::move(ranges)) {
    const std::lock_guard<ForkMutex> lock(mutex);
    for (int i = 0; i < kMost && slot_ < 0; i++)
        if (!slots[i].ranges) slot_ = i;
    if (slot_ < 0) return;
    if (watches++ == 0) {
        page_size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
        struct sigaction action {};
        action.sa_sigaction = handle;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGBUS, &action, &before);
    }
    slots[slot_].cut = -1;
    slots[slot_].ranges = &ranges_;
    mark_lost(slots[slot_], ranges_);
}

void Watch::close() {
    if (slot_ < 0) return;
    const std::lock_guard<ForkMutex> lock(mutex);
    slots[slot_].ranges = nullptr;
    while (handlers) std::this_thread::yield();  // one may still read the ranges
    cut_ = slots[slot_].cut;
    slot_ = -1;
    close_lost(ranges_);
    if (--watches > 0) return;
    forget();
    struct sigaction present;
    sigaction(SIGBUS, nullptr, &present);
    if ((present.sa_flags & SA_SIGINFO) && present.sa_sigaction == handle)
        sigaction(SIGBUS, &before, nullptr);
}

int64_t Watch::cut() const { return slot_ < 0 ? cut_ : slots[slot_].cut.load(); }

#else
Watch::Watch(std::vector<Range> ranges) : ranges_(std::move(ranges)) {}
void Watch::close() {}
int64_t Watch::cut() const { return -1; }
#endif

}  // namespace pdepth
