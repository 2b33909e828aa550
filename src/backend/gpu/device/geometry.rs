//! How the products of a decode step are cut into workgroups.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Workgroups of 256 that a large GPU runs side by side: 128 units with two each. An estimate, until it is measured.
const HARDWARE_WORKGROUPS: usize = 256;

/// Invocations of a workgroup of the matrix-vector product that reads what is quantised already.
pub const WORKGROUPS: [u32; 3] = [64, 128, 256];

/// How the products of a decode step are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Invocations of a workgroup of the matrix-vector product; a quarter as many rows.
    pub workgroup: u32,
    /// Workgroups of 256 that a folded product is cut into at most: each norms and quantises the input for itself, so
    /// that there should not be more than run side by side. Larger products take several rounds of rows.
    pub folded_workgroups: usize,
    /// Products norm and quantise their input themselves. Otherwise the largest of a layer does not, as far as a token
    /// then stays within its number of dispatches.
    pub fold: bool,
}

impl Geometry {
    /// Before anything is measured.
    pub(crate) fn unmeasured(software: bool) -> Self {
        let threads = || 2 * std::thread::available_parallelism().map_or(1, usize::from);
        let folded_workgroups = if software { threads() } else { HARDWARE_WORKGROUPS };
        Self { workgroup: WORKGROUPS[0], folded_workgroups, fold: true }
    }

    /// Rounds of a folded product that would be so many workgroups with one.
    pub(crate) fn rounds(&self, workgroups: usize) -> usize {
        (workgroups / self.folded_workgroups.max(1)).max(1)
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workgroup, folded_workgroups, fold } = self;
        let folded = if *fold { "all products" } else { "all products but the largest" };
        write!(
            f,
            "products of {} rows a workgroup; norms within {folded}, in at most {folded_workgroups} workgroups",
            workgroup / 4
        )
    }
}
