//! Runs tables of malformed files: each must be refused with a reason, on one line, at once, with little memory.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use bitnet_gpu::{Error, bytes::Bytes};

/// The system's allocator, counting the bytes that the current thread holds.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // Without destructor and made without allocating, so reachable at any time of a thread's life.
    LIVE.with(|live| {
        live.set(live.get() + change);
        PEAK.with(|peak| peak.set(peak.get().max(live.get())));
    });
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

/// Peak bytes held by this thread while `work` runs, beyond those held before.
pub fn peak_bytes<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = work();
    (result, (PEAK.get() - before) as usize)
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

/// Memory a refusal may take: what was read of the file until then as strings and tables, and some room.
/// An empty string takes 8 bytes in a file and 24 in memory; no other element grows by more.
fn memory_limit(file_len: usize) -> usize {
    4 * file_len + (1 << 20)
}

/// Opens each row with `open` and reports all rows that do not fail as they should.
pub fn refuse_all(rows: Vec<Row>, open: impl Fn(Bytes) -> Result<(), Error>) {
    let mut wrong = Vec::new();
    for Row { name, bytes, fragments } in rows {
        let len = bytes.len();
        let bytes = Bytes::from(bytes);
        let start = Instant::now();
        let (outcome, peak) = peak_bytes(|| catch_unwind(AssertUnwindSafe(|| open(bytes))));
        let elapsed = start.elapsed();
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
        if peak > memory_limit(len) {
            wrong.push(format!("{name}: {peak} bytes of memory for a file of {len}"));
        }
        if elapsed > Duration::from_secs(1) {
            wrong.push(format!("{name}: took {elapsed:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}
