// A mutex that a fork does not leave locked for ever.
#pragma once

#include <atomic>
#include <mutex>
#include <new>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace pdepth {

// A forked process has one thread; mutexes that others held are never given back, and what these guard
// may be half changed. In such a process a mutex is free, and says once that this was so.
class ForkMutex {
public:
    void lock() {
        renew();
        mutex_.lock();
    }
    bool try_lock() {
        renew();
        return mutex_.try_lock();
    }
    void unlock() { mutex_.unlock(); }

    // Whether a thread of another process held it as this one was forked.
    bool abandoned() {
        renew();
        return abandoned_;
    }
    // As `abandoned`, once: of who holds it now and makes anew what it guards.
    bool take_over() { return std::exchange(abandoned_, false); }

private:
    struct Processes {
        std::atomic<int> forks{0};  // from the first process to this one
        std::mutex renewing;

        Processes() {
#if defined(__unix__) || defined(__APPLE__)
            pthread_atfork(nullptr, nullptr, [] {
                new (&processes().renewing) std::mutex;
                processes().forks++;
            });
#endif
        }
    };
    static Processes& processes() {
        static Processes instance;
        return instance;
    }

    // Before any thread of this process can have locked it: who holds it is not of this process.
    void renew() {
        Processes& now = processes();
        if (forks_ == now.forks) return;
        const std::lock_guard<std::mutex> lock(now.renewing);
        if (forks_ == now.forks) return;
        if (mutex_.try_lock()) {
            mutex_.unlock();
        } else {
            new (&mutex_) std::mutex;
            abandoned_ = true;
        }
        forks_ = now.forks.load();
    }

    std::mutex mutex_;
    std::atomic<int> forks_{processes().forks.load()};
    bool abandoned_ = false;
};

}  // namespace pdepth
