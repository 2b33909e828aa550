use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use super::*;

#[test]
fn every_chunk_runs_exactly_once() {
    for threads in [1, 2, 3, 8] {
        let pool = Pool::new(threads);
        for chunks in [0, 1, 2, 3, 7, 64, 1000] {
            let counts: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(chunks, |chunk| {
                counts[chunk].fetch_add(1, SeqCst);
            });
            assert!(counts.iter().all(|c| c.load(SeqCst) == 1), "{threads} threads, {chunks} chunks");
        }
    }
}

#[test]
fn threads_beyond_the_limit_take_no_part() {
    let pool = Pool::new(4);
    // Never more at once, and that many at last, however long a busy machine takes to wake them.
    let check = |limit: usize, expected: usize| {
        pool.limit(limit);
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        for _ in 0..2000 {
            pool.run(8, |_| {
                most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                thread::sleep(Duration::from_micros(300));
                inside.fetch_sub(1, SeqCst);
            });
            if most.load(SeqCst) >= expected {
                break;
            }
        }
        assert_eq!(most.into_inner(), expected, "a limit of {limit}");
    };
    // 0 and more than there are mean one and all.
    for (limit, expected) in [(2, 2), (1, 1), (3, 3), (4, 4), (2, 2), (0, 1), (99, 4)] {
        check(limit, expected);
    }
    // Dropped while some rest.
    pool.limit(2);
}

#[test]
fn many_short_jobs_lose_nothing() {
    // Back to back and with pauses, so that workers enter while spinning, while falling asleep and when asleep.
    let pool = Pool::new(4);
    let total = AtomicUsize::new(0);
    for job in 0..20_000 {
        pool.run(5, |chunk| {
            total.fetch_add(chunk, SeqCst);
        });
        if job % 997 == 0 {
            thread::sleep(Duration::from_micros(20 + job / 100));
        }
    }
    assert_eq!(total.into_inner(), 20_000 * (1 + 2 + 3 + 4));
}

#[test]
fn other_threads_take_part() {
    let pool = Pool::new(3);
    let seen = Mutex::new(HashSet::new());
    let enough = || seen.lock().unwrap().len() == 3;
    let start = Instant::now();
    // Each chunk lasts until three threads are in, so a pool that runs serially would run into the time limit.
    pool.run(3, |_| {
        seen.lock().unwrap().insert(thread::current().id());
        while !enough() && start.elapsed() < Duration::from_secs(20) {
            thread::yield_now();
        }
    });
    assert!(enough());
}

#[test]
fn a_worker_that_is_late_is_not_waited_for() {
    let pool = Pool::new(2);
    thread::sleep(Duration::from_millis(5));
    let lock = lock(&pool.shared.lock);
    // The worker is asleep and cannot wake up while this lock is held; opening a job needs the lock, so do it by hand.
    unsafe_open(&pool);
    pool.shared.close();
    drop(lock);
    assert_eq!(pool.shared.state.load(SeqCst) & (OPEN | INSIDE), 0);
}

/// As `Shared::open`, but wakes nobody.
fn unsafe_open(pool: &Pool) {
    pool.shared.state.store((7 << JOB_NUMBER_SHIFT) | OPEN, SeqCst);
}

#[test]
fn a_panic_of_any_chunk_reaches_the_caller_and_the_pool_lives_on() {
    let pool = Pool::new(3);
    for bad in 0..50 {
        let error = catch_unwind(AssertUnwindSafe(|| {
            pool.run(50, |chunk| {
                thread::yield_now();
                assert_ne!(chunk, bad, "chunk went wrong");
            });
        }));
        let message = *error.expect_err("the panic was lost").downcast::<String>().unwrap();
        assert!(message.contains("chunk went wrong"), "{message}");
        let done = AtomicUsize::new(0);
        pool.run(10, |_| {
            done.fetch_add(1, SeqCst);
        });
        assert_eq!(done.into_inner(), 10);
    }
}

#[test]
fn a_job_within_a_job_runs_on_its_own_thread() {
    let pool = Pool::new(2);
    let inner = AtomicUsize::new(0);
    pool.run(4, |_| {
        let here = thread::current().id();
        pool.run(5, |_| {
            assert_eq!(thread::current().id(), here);
            inner.fetch_add(1, SeqCst);
        });
    });
    assert_eq!(inner.into_inner(), 20);
}

#[test]
fn two_callers_share_one_pool() {
    let pool = Pool::new(2);
    let total = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..500 {
                    pool.run(3, |_| {
                        total.fetch_add(1, SeqCst);
                    });
                }
            });
        }
    });
    assert_eq!(total.into_inner(), 3000);
}

#[test]
fn drop_joins_the_workers() {
    let pool = Pool::new(4);
    let shared = Arc::clone(&pool.shared);
    pool.run(8, |_| {});
    drop(pool);
    assert_eq!(Arc::strong_count(&shared), 1, "a worker still holds the shared state");
}
