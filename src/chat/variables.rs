//! Variables of a template besides the messages.

use jiff::Zoned;
use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::error::{Error, Result, shown};

/// Says whether the model is to think before it answers; the name that Qwen3's template has for it.
pub(super) const REASONING: &str = "enable_thinking";

/// Functions that the model may call.
pub(super) const TOOLS: &str = "tools";

/// Variables of a template by name, besides the messages and the usual tokens. A template takes those it knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Variables(Map<String, Json>);

impl Variables {
    /// Those of a JSON object.
    ///
    /// # Errors
    /// If the text is no JSON object.
    pub fn from_json(text: &str) -> Result<Self> {
        const THING: &str = "variables of the chat template";
        let expected = "a JSON object";
        let value = serde_json::from_str(text).map_err(|e| Error::malformed(THING, expected, shown(&e.to_string())))?;
        match value {
            Json::Object(map) => Ok(Self(map)),
            other => Err(Error::malformed(THING, expected, shown(&other.to_string()))),
        }
    }

    /// Sets one; the messages cannot be replaced.
    pub fn set(&mut self, name: impl Into<String>, value: Json) {
        self.0.insert(name.into(), value);
    }

    /// Sets all that `more` has.
    pub fn extend(&mut self, more: &Self) {
        self.0.extend(more.0.iter().map(|(name, value)| (name.clone(), value.clone())));
    }

    /// Functions that the model may call, as OpenAI's `tools`.
    pub fn set_tools(&mut self, tools: Vec<Json>) {
        self.set(TOOLS, Json::Array(tools));
    }

    /// Whether there are functions that the model may call.
    pub(super) fn has_tools(&self) -> bool {
        self.0.get(TOOLS).and_then(Json::as_array).is_some_and(|tools| !tools.is_empty())
    }

    /// Whether the model is to think before it answers; `None` leaves it to the template.
    pub fn set_reasoning(&mut self, wanted: Option<bool>) {
        match wanted {
            Some(wanted) => self.set(REASONING, Json::Bool(wanted)),
            None => drop(self.0.remove(REASONING)),
        }
    }

    /// The value given to [`set_reasoning`](Self::set_reasoning).
    pub fn reasoning(&self) -> Option<bool> {
        self.0.get(REASONING).and_then(Json::as_bool)
    }

    /// Sets the day, under the two names that templates of llama.cpp's users read: `date_string` (`26 Jul 2024`) and
    /// `datetime` (`Jul 26 2024`).
    pub fn set_day(&mut self, day: &Zoned) {
        self.set("date_string", day.strftime("%d %b %Y").to_string().into());
        self.set("datetime", day.strftime("%b %d %Y").to_string().into());
    }

    /// Size as JSON.
    pub(super) fn bytes(&self) -> usize {
        serde_json::to_string(&self.0).map_or(0, |text| text.len())
    }
}
