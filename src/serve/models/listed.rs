//! A model as lists of all APIs show it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::super::{
    about::{About, Facts},
    ids,
    model::Served,
};

/// A model of the server, loaded or not.
pub struct Listed {
    pub name: String,
    /// More names that it goes by.
    pub aliases: Vec<String>,
    /// Words about it.
    pub tags: Vec<String>,
    /// Seconds since 1970: when its file was written.
    pub created: u64,
    pub phase: Phase,
    about: Option<Arc<About>>,
}

/// Where it is in its life.
pub enum Phase {
    Unloaded,
    Loading,
    Loaded {
        served: Arc<Served>,
        /// Time until it is unloaded, if no request comes; `None`: it stays.
        left: Option<Duration>,
    },
}

impl Listed {
    pub(super) fn new(
        name: &str,
        aliases: &[String],
        tags: &[String],
        created: Option<SystemTime>,
        about: Option<Arc<About>>,
        phase: Phase,
    ) -> Self {
        let created = created.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let created = match (created, &phase) {
            (Some(since), _) => since.as_secs(),
            (None, Phase::Loaded { served, .. }) => served.created,
            (None, _) => ids::now(),
        };
        Self { name: name.to_owned(), aliases: aliases.to_vec(), tags: tags.to_vec(), created, phase, about }
    }

    /// The model itself, where it is loaded.
    pub fn served(&self) -> Option<&Served> {
        match &self.phase {
            Phase::Loaded { served, .. } => Some(served),
            _ => None,
        }
    }

    /// llama.cpp's word for where it is.
    pub fn status(&self) -> &'static str {
        match self.phase {
            Phase::Unloaded => "unloaded",
            Phase::Loading => "loading",
            Phase::Loaded { .. } => "loaded",
        }
    }

    /// `general.architecture`.
    pub fn architecture(&self) -> &str {
        let of_file = || self.about.as_ref().map_or("", |about| about.architecture.as_str());
        self.served().map_or_else(of_file, |served| served.architecture.as_str())
    }

    /// Its numbers, where they are known before it is loaded.
    pub fn facts(&self) -> Option<Facts> {
        self.served().map(|served| served.facts).or_else(|| self.about.as_ref().map(|about| about.facts))
    }

    /// The source of its chat template; `None` for one that is built in.
    pub fn template(&self) -> Option<&str> {
        match self.served() {
            Some(served) => served.template.source(),
            None => self.about.as_ref().and_then(|about| about.template.as_deref()),
        }
    }

    /// True where its template writes tools into the prompt.
    pub fn knows_tools(&self) -> bool {
        match self.served() {
            Some(served) => served.template.knows_tools(),
            None => self.template().is_some_and(|template| template.contains("tools")),
        }
    }
}
