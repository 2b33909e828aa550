//! Threads for work that is done by as many as there are.

use std::thread::{self, Scope, ScopedJoinHandle};

/// Starts up to `count` threads in `scope` that each do `work`; fewer where the system refuses more.
pub fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    count: usize,
    work: impl Fn() -> T + Send + Clone + 'scope,
) -> Vec<ScopedJoinHandle<'scope, T>> {
    (0..count).map_while(|_| thread::Builder::new().spawn_scoped(scope, work.clone()).ok()).collect()
}

/// The results of `work` on each of `parts`, in their order, computed on up to `threads` threads, of which this one is the
/// first.
pub fn map<P: Send, T: Send>(threads: usize, parts: Vec<P>, work: impl Fn(P) -> T + Sync) -> Vec<T> {
    use std::sync::{Mutex, PoisonError};
    let todo = Mutex::new(parts.into_iter().enumerate());
    let run = || {
        let mut done = Vec::new();
        loop {
            // The lock is given back before the work: a panic in it does not poison.
            let next = todo.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((at, part)) = next else { return done };
            done.push((at, work(part)));
        }
    };
    let run = &run;
    let mut done = thread::scope(|scope| {
        let others = start(scope, threads.saturating_sub(1), run);
        let mut done = run();
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_by_key(|&(at, _)| at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::map;

    #[test]
    fn results_keep_their_order() {
        for threads in [0, 1, 3] {
            assert_eq!(map(threads, (0..100).collect(), |n: u32| n * n), (0..100).map(|n| n * n).collect::<Vec<_>>());
        }
        assert!(map(2, Vec::<u32>::new(), |n| n).is_empty());
    }
}
