//! The engine for Python: `bitnet_gpu._core`, on which the package in `bitnet_gpu/` stands.
//!
//! A [`model::Core`] is a model and where it runs. Texts go through the server's routes in this process, as JSON, so that
//! the package and the server say the same ([`reply`]). What takes long runs on a thread of its own while Python goes on and
//! looks for Ctrl-C ([`work`]).

mod errors;

mod model;

mod notices;

mod numbers;

mod options;

mod program;

mod reply;

mod work;

use pyo3::prelude::*;

/// The compiled part of `bitnet_gpu`.
#[pymodule]
mod _core {
    use super::{PyModule, PyResult, program};
    #[pymodule_export]
    use super::{
        model::Core,
        program::{run_program, settle},
        reply::Reply,
        work::Cancel,
    };
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        program::look_first(module.py())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
