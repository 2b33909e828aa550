//! The models that a server is given: one, or several that are loaded when requests name them.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    chat::Template,
    engine::{Engine, ModelFile},
    error::Result,
    generate::SampleOptions,
};

/// A model that can be loaded, and how it answers.
pub struct Opened {
    /// Its file.
    pub file: ModelFile,
    /// Where it is to run.
    pub engine: Engine,
    /// Form of its prompts.
    pub template: Template,
    /// Options of sampling where a request has none.
    pub sample: SampleOptions,
}

/// Opens the model at a path.
pub type Open = dyn Fn(&Path) -> Result<Opened> + Send + Sync;

/// Models of a server.
pub enum Offer {
    /// One, which is loaded at the start and stays.
    One(Box<Opened>),
    /// Several.
    Several(Catalogue),
}

/// Models that are loaded when a request names them, and unloaded when they are idle or their memory is needed.
pub struct Catalogue {
    /// Names and places of models.
    pub models: Vec<(String, PathBuf)>,
    /// A folder whose GGUF files and model directories are offered as well, under their names.
    pub folder: Option<PathBuf>,
    /// Opens them.
    pub open: Box<Open>,
    /// Time without a request after which a model is unloaded; `None`: it stays.
    pub keep_alive: Option<Duration>,
    /// Loaded models at most; `None`: as many as fit into the memory.
    pub most_loaded: Option<NonZeroUsize>,
}

/// The name of a model by its path: that of the file or directory without its ending.
pub fn short_name(path: &str) -> String {
    let name = path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(path);
    let name = name.strip_suffix(".gguf").unwrap_or(name);
    name.replace(' ', "-")
}
