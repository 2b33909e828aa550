//! The way to the network: proxies and certificate authorities, as the environment names them.
//!
//! The rules are those of Python's programs, which speak to the Hub on the same machines: a proxy for each scheme before
//! one for all, small letters before capitals, hosts that are exempt, and certificates beside or in place of the system's.

use std::{env, fmt, net::IpAddr, path::Path, str::FromStr, sync::Arc, time::Duration};

use ureq::{
    Agent, Proxy,
    http::Uri,
    tls::{Certificate, RootCerts, TlsConfig},
};

use crate::error::{Error, Result, shown};

/// A server that says nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Files and folders of certificates to trust in place of the system's, the first that is set. The first two are
/// OpenSSL's and are read together.
const BUNDLES: [&str; 4] = ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];

/// A client and the proxies that it goes through. It follows no redirects.
#[derive(Debug)]
pub(super) struct Network {
    pub agent: Agent,
    proxies: Proxies,
}

impl Network {
    /// No proxy, and the list of certificate authorities of the program.
    pub fn direct() -> Self {
        Self::new(Proxies::default(), RootCerts::WebPki)
    }

    /// As the environment says.
    pub fn of_user() -> Result<Self> {
        Ok(Self::new(Proxies::by_variables(variable), trusted(variable)?))
    }

    fn new(proxies: Proxies, roots: RootCerts) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Which one it is depends on the address of a request.
            .proxy(None)
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .user_agent(concat!("bitnet-gpu/", env!("CARGO_PKG_VERSION")));
        Self { agent: config.build().into(), proxies }
    }

    /// The proxy for that address.
    ///
    /// # Errors
    /// If it is of a kind that is not spoken: the request must not go around it.
    pub fn proxy(&self, address: &Uri) -> Result<Option<(Proxy, &Setting)>> {
        let Some(setting) = self.proxies.of(address) else { return Ok(None) };
        let scheme = setting.value.split_once("://").map_or("http", |(scheme, _)| scheme);
        if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
            let reason = format!("{} proxies are not spoken; an HTTP proxy is (HTTPS_PROXY)", shown(scheme));
            return Err(Error::unsupported(setting.to_string(), reason));
        }
        let proxy = Proxy::new(&setting.value)
            .map_err(|_| Error::malformed(setting.variable, "http://HOST:PORT", setting.shown_value()))?;
        Ok(Some((proxy, setting)))
    }
}

/// A variable of the environment; an empty one counts as not set.
pub(super) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// The address of a proxy and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    variable: &'static str,
    value: String,
}

impl Setting {
    /// Without the password.
    fn shown_value(&self) -> String {
        match (self.value.split_once("://"), self.value.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => shown(&format!("{scheme}://{host}")),
            (None, Some((_, host))) => shown(host),
            (_, None) => shown(&self.value),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the proxy {} ({})", self.shown_value(), self.variable)
    }
}

/// Proxies by the scheme of the address, and hosts that are reached without.
#[derive(Debug, Default)]
struct Proxies {
    http: Option<Setting>,
    https: Option<Setting>,
    exempt: Vec<Exempt>,
}

impl Proxies {
    fn by_variables(var: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&'static str]| {
            names.iter().find_map(|&variable| {
                let value = var(variable)?.trim().to_owned();
                Some(Setting { variable, value })
            })
        };
        let exempt = first(&["no_proxy", "NO_PROXY"]).map(|setting| setting.value).unwrap_or_default();
        let entries = exempt.split([',', ' ']).filter(|entry| !entry.is_empty());
        Self {
            http: first(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
            https: first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            exempt: entries.map(Exempt::new).collect(),
        }
    }

    fn of(&self, address: &Uri) -> Option<&Setting> {
        let is_https = address.scheme_str() == Some("https");
        let setting = if is_https { &self.https } else { &self.http };
        let host = address.host()?.trim_matches(['[', ']']).to_ascii_lowercase();
        let port = address.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        setting.as_ref().filter(|_| !self.exempt.iter().any(|exempt| exempt.covers(&host, port)))
    }
}

/// An entry of NO_PROXY.
#[derive(Debug)]
enum Exempt {
    All,
    /// A host and all below it, in small letters; on one port, where it is named.
    Domain(String, Option<u16>),
    /// Addresses with that many leading bits in common.
    Network(IpAddr, u32),
}

impl Exempt {
    fn new(entry: &str) -> Self {
        if entry == "*" {
            return Self::All;
        }
        let network = entry.split_once('/').and_then(|(at, bits)| Some((at.parse().ok()?, bits.parse().ok()?)));
        if let Some((address, bits)) = network {
            return Self::Network(address, bits);
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, u16::from_str(port).ok()),
            _ => (entry, None),
        };
        let host = host.trim_matches(['[', ']']).trim_start_matches('*').trim_start_matches('.');
        Self::Domain(host.to_ascii_lowercase(), port)
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Domain(domain, on) => {
                let below = || host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'));
                on.is_none_or(|on| on == port) && (host == domain || below())
            }
            Self::Network(network, bits) => {
                let differ = match (network, host.parse()) {
                    (IpAddr::V4(a), Ok(IpAddr::V4(b))) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
                    (IpAddr::V6(a), Ok(IpAddr::V6(b))) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
                    _ => return false,
                };
                differ >= *bits
            }
        }
    }
}

/// Certificate authorities: those of the variables, else the system's, else the program's own list (a small container
/// has none).
fn trusted(var: impl Fn(&str) -> Option<String>) -> Result<RootCerts> {
    let named = BUNDLES.iter().find_map(|&variable| Some((variable, var(variable)?)));
    let found = match &named {
        // Also where both of OpenSSL's are set.
        None | Some(("SSL_CERT_FILE" | "SSL_CERT_DIR", _)) => rustls_native_certs::load_native_certs(),
        Some((_, path)) => {
            let (path, is_folder) = (Path::new(path), Path::new(path).is_dir());
            rustls_native_certs::load_certs_from_paths((!is_folder).then_some(path), is_folder.then_some(path))
        }
    };
    match (named, &found.certs[..]) {
        (Some((variable, path)), []) => {
            let reason = found.errors.first().map_or_else(|| "no certificates".to_owned(), ToString::to_string);
            Err(Error::malformed(format!("{variable} ({})", shown(&path)), "PEM certificates", shown(&reason)))
        }
        (None, []) => Ok(RootCerts::WebPki),
        (_, certs) => {
            let certs = certs.iter().map(|cert| Certificate::from_der(cert.as_ref()).to_owned()).collect();
            Ok(RootCerts::Specific(Arc::new(certs)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(variables: &[(&str, &str)], address: &str) -> Option<String> {
        let proxies = Proxies::by_variables(|name| {
            variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        });
        proxies.of(&address.parse().unwrap()).map(|setting| setting.value.clone())
    }

    #[test]
    fn a_proxy_is_chosen_by_scheme_and_the_special_before_the_general() {
        let all = [("ALL_PROXY", "socks5://a"), ("HTTPS_PROXY", "http://big"), ("https_proxy", "http://small")];
        assert_eq!(chosen(&all, "https://huggingface.co/x").as_deref(), Some("http://small"));
        assert_eq!(chosen(&all[..2], "https://huggingface.co/x").as_deref(), Some("http://big"));
        assert_eq!(chosen(&all, "http://localhost:1/x").as_deref(), Some("socks5://a"));
        assert_eq!(chosen(&all[1..], "http://localhost:1/x"), None);
    }

    #[test]
    fn exempt_hosts_are_reached_without() {
        let proxied = |exempt: &str, address: &str| {
            let is = |name: &str| [("all_proxy", "http://p:1"), ("no_proxy", exempt)].iter().any(|(n, _)| *n == name);
            assert!(is("all_proxy"));
            chosen(&[("all_proxy", "http://p:1"), ("no_proxy", exempt)], address).is_some()
        };
        for (exempt, address) in [
            ("*", "https://a.b"),
            ("localhost,127.0.0.1", "http://127.0.0.1:8080/x"),
            (" .corp.example , x", "https://hub.CORP.example"),
            ("corp.example", "https://hub.corp.example"),
            ("*.corp.example", "https://hub.corp.example"),
            ("hub:8443", "https://hub:8443"),
            ("10.0.0.0/8", "http://10.2.3.4"),
            ("::1", "http://[::1]:80/"),
            ("fd00::/8", "http://[fd12::5]/"),
        ] {
            assert!(!proxied(exempt, address), "{exempt} {address}");
        }
        for (exempt, address) in [
            ("corp.example", "https://notcorp.example"),
            ("hub:8443", "https://hub"),
            ("10.0.0.0/8", "http://11.0.0.1"),
            ("10.0.0.0/8", "http://hub"),
            ("", "https://a.b"),
        ] {
            assert!(proxied(exempt, address), "{exempt} {address}");
        }
    }

    #[test]
    fn passwords_of_proxies_are_not_shown() {
        let shown = |value: &str| Setting { variable: "HTTPS_PROXY", value: value.into() }.to_string();
        assert_eq!(shown("http://me:secret@p:1"), "the proxy http://p:1 (HTTPS_PROXY)");
        assert_eq!(shown("me:secret@p:1"), "the proxy p:1 (HTTPS_PROXY)");
    }

    #[test]
    fn a_bundle_without_certificates_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, "nothing").unwrap();
        let text = trusted(|name| (name == "REQUESTS_CA_BUNDLE").then(|| file.display().to_string())).unwrap_err();
        assert!(text.to_string().starts_with("REQUESTS_CA_BUNDLE ("), "{text}");
    }
}
