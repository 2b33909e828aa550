//! Runs tables of malformed files: each must be refused with a reason, on one line, with little memory. Work is counted in bytes
//! allocated: those held at once, and those asked for in all.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

use bitnet_gpu::{Error, bytes::Bytes};

use super::watchdog::must_end;

/// The system's allocator, counting the bytes that the current thread holds.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static TOTAL: Cell<usize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // Without destructor and made without allocating, so reachable at any time of a thread's life.
    LIVE.with(|live| {
        live.set(live.get() + change);
        PEAK.with(|peak| peak.set(peak.get().max(live.get())));
    });
    TOTAL.with(|total| total.set(total.get() + usize::try_from(change).unwrap_or(0)));
}

// SAFETY: every request is passed on unchanged to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: `place` came from `System` through this type, with this layout.
        unsafe { System.dealloc(place, layout) }
    }
}

/// Bytes that some work allocated on its own thread.
pub struct Allocated {
    /// Held at once, beyond those held before.
    pub peak: usize,
    /// In all allocations together.
    pub total: usize,
}

pub fn allocated<T>(work: impl FnOnce() -> T) -> (T, Allocated) {
    let (live, total) = (LIVE.get(), TOTAL.get());
    PEAK.set(live);
    let result = work();
    (result, Allocated { peak: (PEAK.get() - live) as usize, total: TOTAL.get() - total })
}

/// A malformed file and the parts its error message must have.
pub struct Row {
    pub name: String,
    pub bytes: Vec<u8>,
    pub fragments: Vec<String>,
}

pub fn row(name: impl Into<String>, bytes: impl Into<Vec<u8>>, fragments: &[&str]) -> Row {
    let fragments = fragments.iter().map(|&fragment| fragment.to_owned()).collect();
    Row { name: name.into(), bytes: bytes.into(), fragments }
}

/// Memory a refusal may hold: what was read of the file until then as strings and tables, and some room.
/// An empty string takes 8 bytes in a file and 24 in memory; no other element grows by more.
fn peak_limit(file_len: usize) -> usize {
    4 * file_len + (1 << 20)
}

/// Memory a refusal may ask for in all, as a measure of its work: tables that grow by doubling ask for twice their
/// size, and a few things are read twice.
fn total_limit(file_len: usize) -> usize {
    4 * peak_limit(file_len)
}

/// Opens each row with `open` and reports all rows that do not fail as they should.
pub fn refuse_all(rows: Vec<Row>, open: impl Fn(Bytes) -> Result<(), Error>) {
    let mut wrong = Vec::new();
    for Row { name, bytes, fragments } in rows {
        let len = bytes.len();
        let bytes = Bytes::from(bytes);
        let work = || allocated(|| catch_unwind(AssertUnwindSafe(|| open(bytes))));
        let (outcome, Allocated { peak, total }) = must_end(&name, work);
        match outcome {
            Err(_) => wrong.push(format!("{name}: panic")),
            Ok(Ok(())) => wrong.push(format!("{name}: accepted")),
            Ok(Err(error)) => {
                let message = error.to_string();
                if message.chars().any(char::is_control) || message.len() > 600 {
                    wrong.push(format!("{name}: not one plain line: {message:?}"));
                }
                for fragment in fragments.iter().filter(|fragment| !message.contains(fragment.as_str())) {
                    wrong.push(format!("{name}: no {fragment:?} in: {message}"));
                }
            }
        }
        if peak > peak_limit(len) {
            wrong.push(format!("{name}: {peak} bytes held for a file of {len}"));
        }
        if total > total_limit(len) {
            wrong.push(format!("{name}: {total} bytes allocated for a file of {len}"));
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}
