//! Names of answers and calls that nobody else uses, and the time.

use std::{
    hash::{BuildHasher, RandomState},
    time::{SystemTime, UNIX_EPOCH},
};

const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// `prefix` and 32 random letters and digits.
pub fn unique(prefix: &str) -> String {
    let mut id = prefix.to_owned();
    for part in 0..4u8 {
        // The standard library seeds each hasher anew: randomness without a dependency.
        let mut bits = RandomState::new().hash_one(part);
        for _ in 0..8 {
            id.push(char::from(LETTERS[(bits % 62) as usize]));
            bits /= 62;
        }
    }
    id
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
