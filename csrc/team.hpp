// The threads of one call. They live as long as the call and share its items by a counter.
#pragma once

#include <cfenv>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

namespace pdepth {

// Round to nearest and subnormal numbers kept, whatever the caller's thread had set; a new thread
// inherits it. torch.set_flush_denormal(True), for one, would change distances.
class DefaultArithmetic {
public:
    DefaultArithmetic() {
        std::fegetenv(&saved_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~DefaultArithmetic() { std::fesetenv(&saved_); }

private:
    std::fenv_t saved_;
};

// Memory set aside, not of the heap's: a new thread asks the system for its own.
class Reserve {
public:
    Reserve() = default;
    Reserve(const Reserve&) = delete;
    Reserve& operator=(const Reserve&) = delete;
    ~Reserve() { release(); }

#if defined(__unix__) || defined(__APPLE__)
    bool hold(std::size_t bytes) {
        void* const held = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
        if (held == MAP_FAILED) return false;
        data_ = held;
        bytes_ = bytes;
        return true;
    }
    void release() {
        if (data_) munmap(data_, bytes_);
        data_ = nullptr;
    }

private:
    void* data_ = nullptr;
    std::size_t bytes_ = 0;
#else
    bool hold(std::size_t) { return true; }
    void release() {}
#endif
};

class Team {
public:
    // `poll` runs on the calling thread, some ten times a second between items and wherever an item
    // checks; what it throws ends the call. A system that refuses some of the threads gets its
    // work from the others.
    Team(int size, std::function<void()> poll) : poll_(std::move(poll)) {
        threads_.reserve(size);
        touch_thread_local_data();
        Reserve reserve;
        while (size > 1 && !reserve.hold(kOfThread * size)) size /= 2;
        std::unique_lock<std::mutex> lock(mutex_);
        try {
            for (int t = 1; t < size; t++)
                threads_.emplace_back([this, t] {
                    begin();
                    work_until_closed(t);
                });
        } catch (const std::system_error&) {
        } catch (const std::bad_alloc&) {
        }
        busy_ = static_cast<int>(threads_.size());
        reserve.release();
        done_.wait(lock, [this] { return busy_ == 0; });
    }

    ~Team() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            closed_ = true;
        }
        wake_.notify_all();
        for (auto& thread : threads_) thread.join();
    }

    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return static_cast<int>(threads_.size()) + 1; }

    // Calls item(i, thread) for i in [0, count), each once, and returns when all are done.
    void run(int64_t count, const std::function<void(int64_t, int)>& item) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            item_ = &item;
            count_ = count;
            next_ = 0;
            busy_ = static_cast<int>(threads_.size());
            round_++;
            stopped_ = false;
        }
        wake_.notify_all();
        take_items(0);
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return busy_ == 0; });
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    }

    // For items that take long: ends this one where the call is to end.
    void check(int thread) {
        if (thread == 0) poll();
        if (stopped_) throw Stopped{};
    }

private:
    struct Stopped {};

    static constexpr std::size_t kOfThread = std::size_t(1) << 18;

    // A thread's first exception allocates what the C++ library keeps of a thread, and where that
    // fails the C library ends the process. So it is thrown as a thread begins, when there is
    // memory: what was set aside before the threads took their stacks, and nobody else takes.
    static void touch_thread_local_data() {
        try {
            throw Stopped{};
        } catch (const Stopped&) {
        }
    }

    void begin() {
        { std::lock_guard<std::mutex> lock(mutex_); }  // until the reserve is free
        touch_thread_local_data();
        std::lock_guard<std::mutex> lock(mutex_);
        if (--busy_ == 0) done_.notify_one();
    }

    void work_until_closed(int thread) {
        for (int64_t last_round = 0;;) {
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return closed_ || round_ != last_round; });
                if (closed_) return;
                last_round = round_;
            }
            take_items(thread);
            std::lock_guard<std::mutex> lock(mutex_);
            if (--busy_ == 0) done_.notify_one();
        }
    }

    void poll() {
        const auto now = std::chrono::steady_clock::now();
        if (now - polled_ < std::chrono::milliseconds(100)) return;
        polled_ = now;
        poll_();
    }

    void take_items(int thread) {
        try {
            for (int64_t i; (i = next_.fetch_add(1)) < count_;) {
                (*item_)(i, thread);
                if (thread == 0) poll();
            }
        } catch (...) {
            std::lock_guard<std::mutex> lock(mutex_);
            if (!error_) error_ = std::current_exception();
            next_ = count_;
            stopped_ = true;  // the others end at their next check
        }
    }

    DefaultArithmetic arithmetic_;
    std::function<void()> poll_;
    std::chrono::steady_clock::time_point polled_ = std::chrono::steady_clock::now();
    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    const std::function<void(int64_t, int)>* item_ = nullptr;
    std::atomic<int64_t> next_{0};
    std::atomic<bool> stopped_{false};
    int64_t count_ = 0, round_ = 0;
    int busy_ = 0;
    bool closed_ = false;
    std::exception_ptr error_;
};

}  // namespace pdepth
