//! In place of a GPU, for a library without the feature `gpu`: none is ever open.

use std::convert::Infallible;

use super::{Budget, EngineOptions};
use crate::{
    backend::Backend,
    error::{Error, Result},
    model::Model,
    plan::{Demand, GpuFacts, Request, Sizes},
};

/// As a GPU that is open; there is no value of it.
pub struct Device(Infallible);

impl Device {
    pub fn open(_options: &EngineOptions, _request: Request) -> Result<Self> {
        Err(Error::NoAdapter { reason: "this program was built without the feature gpu".into() })
    }

    pub fn anew(&self) -> Self {
        match self.0 {}
    }

    pub fn notes(&self) -> Vec<String> {
        match self.0 {}
    }

    pub fn name(&self) -> &str {
        match self.0 {}
    }

    pub fn facts(&self) -> GpuFacts {
        match self.0 {}
    }

    pub fn is_software(&self) -> bool {
        match self.0 {}
    }

    pub fn key(&self) -> String {
        match self.0 {}
    }

    pub fn budget(&self) -> Budget {
        match self.0 {}
    }

    pub fn refresh_budget(&self) -> Budget {
        match self.0 {}
    }

    pub fn demand(&self, _model: &Model, _sizes: &Sizes) -> Result<Demand> {
        match self.0 {}
    }

    pub fn copy_pays(&self, _model: &Model) -> bool {
        match self.0 {}
    }

    pub fn copy_serves(&self, _model: &Model, _most_top: usize) -> bool {
        match self.0 {}
    }

    pub fn into_backend(self) -> Box<dyn Backend> {
        match self.0 {}
    }

    pub fn backend_mut(&mut self) -> &mut dyn Backend {
        match self.0 {}
    }
}
