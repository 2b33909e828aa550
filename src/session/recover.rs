//! Failover: what goes on where a GPU fails in the middle.

use super::Runtime;
use crate::error::{Error, Result};

/// Loads what is to go on where a GPU failed: all layers on backends that cannot fail that way. It is given the error
/// and the number of tokens that have to run again.
pub type Standby = Box<dyn FnOnce(&Error, usize) -> Result<Runtime> + Send>;

/// A failure of a GPU in the middle, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// Tokens that had been run; they were run again.
    pub tokens: usize,
    /// The error.
    pub reason: String,
}

impl Runtime {
    /// Replaces all backends by those of the standby. The states of every sequence are lost: each runs its tokens again
    /// before its next step.
    pub(super) fn hand_over(&mut self, error: Error, tokens: usize) -> Result<()> {
        let Some(standby) = self.standby.take() else { return Err(error) };
        // Their memory is needed: that of an integrated GPU is the machine's.
        self.phases.loaded.clear();
        self.backends.clear();
        let Self { backends, phases, sizes, standby, .. } = standby(&error, tokens)?;
        (self.backends, self.phases, self.sizes, self.standby) = (backends, phases, sizes, standby);
        self.takeover = Some(Takeover { tokens, reason: error.to_string() });
        self.cancel_when(self.cancel.clone());
        self.epoch += 1;
        Ok(())
    }
}
