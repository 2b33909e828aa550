//! Failures on demand, for the tests of what follows them. Not a feature: no driver fails when it is asked to, and
//! no software adapter runs out of memory.

use std::env;

use super::options::{Fault, Tuning};
use crate::error::{Error, Result};

/// Read by the program, so that tests can run it as a process: a list of "memory=BYTES" (the budget), "later=BYTES" (what
/// is left of it when the model is loaded) and one of "self-test", "load", "lost@N", "memory@N", "nan@N", "silence@N" or
/// "dropped@N" (see [`Fault`]; N is a position), which "above=BYTES" restricts to segments that take more.
const VARIABLE: &str = "BITNET_TEST_GPU_FAULT";

fn fault_of(text: &str) -> Option<Fault> {
    match text {
        "self-test" => return Some(Fault::SelfTest),
        "load" => return Some(Fault::Load),
        _ => {}
    }
    let (kind, position) = text.split_once('@')?;
    let position = position.parse().ok()?;
    match kind {
        "lost" => Some(Fault::Lost(position)),
        "memory" => Some(Fault::OutOfMemory(position)),
        "nan" => Some(Fault::NotFinite(position)),
        "silence" => Some(Fault::Silence(position)),
        "dropped" => Some(Fault::Dropped(position)),
        _ => None,
    }
}

/// The departures that the environment asks for: none, except in tests.
pub fn injected() -> Result<Tuning> {
    parse(&env::var(VARIABLE).unwrap_or_default())
}

fn parse(text: &str) -> Result<Tuning> {
    let mut tuning = Tuning::default();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let number = part.split_once('=').map(|(name, bytes)| (name, bytes.parse().ok()));
        match (number, fault_of(part)) {
            (Some(("memory", Some(bytes))), _) => tuning.memory_bytes = Some(bytes),
            (Some(("later", Some(bytes))), _) => tuning.later_memory_bytes = Some(bytes),
            (Some(("above", Some(bytes))), _) => tuning.fault_above = bytes,
            (None, Some(fault)) => tuning.fault = Some(fault),
            _ => return Err(Error::malformed(VARIABLE, "memory=BYTES, load or lost@POSITION", part)),
        }
    }
    Ok(tuning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_understood_or_refused() {
        assert_eq!(parse("").unwrap(), Tuning::default());
        let both = parse("memory=77,lost@20").unwrap();
        assert_eq!((both.memory_bytes, both.fault), (Some(77), Some(Fault::Lost(20))));
        let some = parse("later=5,load,above=6").unwrap();
        assert_eq!((some.later_memory_bytes, some.fault, some.fault_above), (Some(5), Some(Fault::Load), 6));
        assert_eq!(parse("silence@3").unwrap().fault, Some(Fault::Silence(3)));
        for wrong in ["lost", "lost@", "lost@-1", "memory=", "above=x", "explode@3", "load@3"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
