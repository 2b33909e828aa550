//! `ps`: what a server on this machine serves, by its own word.

use std::time::Duration;

use serde_json::Value as Json;
use ureq::{Agent, Error as HttpError};

use super::{args::PsArgs, format, output};
use crate::error::{Error, Result, shown};

/// A server answers at once, also while its engine is busy.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn run(args: &PsArgs) -> Result<()> {
    let answer = ask(args)?;
    if args.json {
        return output::print_json(&answer);
    }
    let models = answer["models"].as_array().map(Vec::as_slice).unwrap_or_default();
    if models.is_empty() {
        output::note("no model is loaded");
        return Ok(());
    }
    let heading = ["name", "size", "type", "context", "until"].map(str::to_owned).to_vec();
    let rows = models.iter().map(|model| {
        let text = |value: &Json| value.as_str().map_or_else(|| "-".into(), shown);
        let expires = text(&model["expires_at"]);
        vec![
            text(&model["name"]),
            model["size"].as_u64().map_or_else(|| "-".into(), format::bytes),
            text(&model["details"]["quantization_level"]),
            model["context_length"].as_u64().map_or_else(|| "-".into(), |tokens| tokens.to_string()),
            // A date in another century stands for no end.
            if expires.starts_with("20") { expires } else { "forever".into() },
        ]
    });
    output::print(&format::table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>()))
}

/// The answer of `/api/ps`.
fn ask(args: &PsArgs) -> Result<Json> {
    let host = match args.host.trim_matches(['[', ']']) {
        "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" => "[::1]".to_owned(),
        host if host.contains(':') => format!("[{host}]"),
        host => host.to_owned(),
    };
    let url = format!("http://{host}:{}/api/ps", args.port);
    let failed = |reason: String| Error::Download { url: url.clone(), reason };
    let config = Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).proxy(None);
    let agent: Agent = config.build().into();
    let mut request = agent.get(&url);
    if let Some(key) = &args.api_key {
        request = request.header("Authorization", format!("Bearer {key}"));
    }
    let mut response = request.call().map_err(|error| match error {
        HttpError::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            failed("no server is there; `bitnet-gpu serve` starts one".into())
        }
        error => failed(error.to_string()),
    })?;
    let status = response.status();
    let text = response.body_mut().read_to_string().map_err(|error| failed(error.to_string()))?;
    let answer: Json = serde_json::from_str(&text).map_err(|_| failed("the answer is no JSON".into()))?;
    if status.is_success() && answer["models"].is_array() {
        return Ok(answer);
    }
    let error = &answer["error"];
    let said = error.as_str().or_else(|| error["message"].as_str()).unwrap_or("no list of models");
    Err(failed(format!("the server says {status}: {}", shown(said))))
}
