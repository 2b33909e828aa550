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
fn ranges_of_chunks_follow_each_other_and_differ_by_one_at_most() {
    for (chunks, threads) in [(1, 1), (7, 1), (8, 2), (9, 2), (11, 4), (4, 4), (1000, 7)] {
        let starts: Vec<usize> = (0..=threads).map(|n| first_chunk(chunks, threads, n)).collect();
        assert_eq!((starts[0], starts[threads]), (0, chunks));
        let lens: Vec<usize> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let (least, most) = (lens.iter().min().unwrap(), lens.iter().max().unwrap());
        assert!(*least >= 1 && most - least <= 1, "{chunks} chunks, {threads} threads: {lens:?}");
    }
}

#[test]
fn a_thread_runs_its_own_range_in_order_and_then_what_others_left() {
    let pool = Pool::new(2);
    let caller = thread::current().id();
    let seen = Mutex::new((Vec::new(), Vec::new()));
    let start = Instant::now();
    let has_worker = || !seen.lock().unwrap().1.is_empty() || start.elapsed() > Duration::from_secs(20);
    // Each thread waits in its first chunk until both are in; then the worker stays in its own until all else is done.
    pool.run(8, |chunk| {
        let is_caller = thread::current().id() == caller;
        let count = {
            let mut seen = seen.lock().unwrap();
            if is_caller {
                seen.0.push(chunk)
            } else {
                seen.1.push(chunk)
            }
            seen.0.len() + seen.1.len()
        };
        while is_caller && count == 1 && !has_worker() {
            thread::yield_now();
        }
        while !is_caller && seen.lock().unwrap().0.len() < 7 && start.elapsed() < Duration::from_secs(20) {
            thread::yield_now();
        }
    });
    assert_eq!(*seen.lock().unwrap(), (vec![0, 1, 2, 3, 5, 6, 7], vec![4]));
}

#[test]
fn what_is_fetched_ahead_is_what_each_thread_reads_first() {
    let pool = Pool::new(3);
    let bytes = vec![0_u8; 100 << 10];
    // The caller fetches nothing before it waits, and a worker that rests nothing at all.
    pool.limit(1);
    let left = |n| pool.left_ahead(n);
    let part = |chunk: usize| &bytes[chunk << 10..(chunk + 2) << 10];
    pool.fetch_ahead(10, part);
    assert_eq!(left(0), part(0).as_ptr_range().start.addr()..part(0).as_ptr_range().end.addr());
    assert!(left(1).is_empty() && left(2).is_empty(), "they take no part");
    pool.limit(3);
    pool.fetch_ahead(10, part);
    for (n, chunk) in [(0, 0), (1, 4), (2, 7)] {
        let end = part(chunk).as_ptr_range().end.addr();
        assert_eq!(left(n).end, end, "thread {n}");
    }
    // More threads than chunks, and none.
    pool.fetch_ahead(1, part);
    assert!(left(1).is_empty() && left(2).is_empty());
    pool.fetch_ahead(0, |_| unreachable!("no chunk"));
    assert!(left(0).is_empty());
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
