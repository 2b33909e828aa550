//! A small Hub: an HTTP server on this machine that lists a repository, redirects to a second host for large files,
//! serves ranges, and fails as it is told to.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use sha2::{Digest, Sha256};

/// How a transfer goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The connection ends after so many bytes of an answer, this often.
    Cut { after: usize, times: usize },
    /// The server answers with an error, this often.
    Status { code: u16, times: usize },
    /// Ranges are not served: all comes from the start.
    NoRanges,
    /// Other bytes of the same length.
    OtherBytes,
    /// More bytes than announced.
    TooMany,
}

/// Status, headers and body of an answer.
pub type Refusal = (u16, Vec<(&'static str, String)>, &'static str);

/// A request that came in.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
}

/// Files and behaviour of the server; shared with its threads.
#[derive(Default)]
pub struct State {
    /// Contents by file name; those of 1000 bytes and more are "large".
    pub files: Vec<(String, Vec<u8>)>,
    /// Other repositories than `org/name`, and their files, each with the contents of the first of `files`.
    pub others: Vec<(String, Vec<String>)>,
    pub trouble: Option<Trouble>,
    /// Answers to the next requests, the last one first.
    pub refusals: Vec<Refusal>,
    /// Before all paths, as of a mirror below another site.
    pub prefix: String,
    /// Only who has it gets an answer; not asked for by the second host.
    pub token: Option<String>,
    /// Everything is there now.
    pub moved_to: Option<String>,
    pub requests: Vec<Request>,
    /// Answers given in trouble.
    troubled: usize,
}

#[derive(Clone)]
pub struct Server {
    pub port: u16,
    state: Arc<Mutex<State>>,
}

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const LARGE: usize = 1000;

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Server {
    pub fn start(files: &[(&str, &[u8])]) -> Self {
        Self::start_with(files, |server, mut stream| server.answer(&mut stream))
    }

    /// With a secret and a certificate of `tls/`.
    pub fn start_with_tls(files: &[(&str, &[u8])]) -> Self {
        let config = Arc::new(tls::config());
        Self::start_with(files, move |server, stream| {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            server.answer(&mut rustls::StreamOwned::new(connection, stream));
        })
    }

    fn start_with(files: &[(&str, &[u8])], answer: impl Fn(&Self, TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        let server = Self { port, state: Arc::new(Mutex::new(State { files, ..State::default() })) };
        let (answering, answer) = (server.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (server, answer) = (answering.clone(), Arc::clone(&answer));
                thread::spawn(move || answer(&server, stream));
            }
        });
        server
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn set<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    pub fn trouble(&self, trouble: Option<Trouble>) {
        self.set(|state| (state.trouble, state.troubled) = (trouble, 0));
    }

    /// Requests since the last call.
    pub fn requests(&self) -> Vec<Request> {
        self.set(|state| std::mem::take(&mut state.requests))
    }

    fn answer(&self, stream: &mut (impl Read + Write)) {
        let Some(request) = read(stream) else { return };
        self.set(|state| state.requests.push(request.clone()));
        let (status, headers, body, sent) = self.response(&request);
        let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        let _ = stream.write_all((head + "\r\n").as_bytes());
        if request.method != "HEAD" {
            let _ = stream.write_all(&body[..sent.min(body.len())]);
        }
    }

    /// Status, headers, body, and how much of it is sent before the connection ends.
    fn response(&self, request: &Request) -> (u16, Vec<(String, String)>, Vec<u8>, usize) {
        let plain = |status, body: &str| (status, Vec::new(), body.as_bytes().to_vec(), usize::MAX);
        let (files, refusal, prefix, token, moved_to) = self.set(|state| {
            let refusal = state.refusals.pop();
            (state.files.clone(), refusal, state.prefix.clone(), state.token.clone(), state.moved_to.clone())
        });
        if let Some((status, headers, body)) = refusal {
            let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            return (status, headers, body.as_bytes().to_vec(), usize::MAX);
        }
        if let Some(elsewhere) = moved_to {
            return (308, vec![("Location".into(), elsewhere + &request.path)], Vec::new(), usize::MAX);
        }
        let Some(path) = request.path.strip_prefix(&prefix) else { return plain(404, "outside the prefix") };
        let authorization = request.headers.get("authorization");
        if let Some(token) = token
            && !path.starts_with("/cdn/")
            && authorization != Some(&format!("Bearer {token}"))
        {
            return plain(401, "{\"error\": \"Invalid username or password.\"}");
        }
        if path.contains("/org/old/") {
            let to = format!("{prefix}{}", path.replace("/org/old/", "/org/name/"));
            return (307, vec![("Location".into(), to)], Vec::new(), usize::MAX);
        }
        let path = &match self.of_another(path) {
            Some(Ok(listing)) => return plain(200, &listing),
            Some(Err(path)) => path,
            None => path.to_owned(),
        };
        if path == "/api/models/org/name/revision/main" {
            let siblings: Vec<_> = files.iter().map(|(name, _)| serde_json::json!({ "rfilename": name })).collect();
            return plain(200, &serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string());
        }
        if let Some(name) = path.strip_prefix(&format!("/org/name/resolve/{COMMIT}/")) {
            let Some((_, bytes)) = files.iter().find(|(file, _)| file == name) else {
                return plain(404, "no such file");
            };
            let header = |name: &str, value: String| (name.to_owned(), value);
            return if bytes.len() >= LARGE {
                let headers = vec![
                    // Another name of this machine: another host.
                    header("Location", format!("http://localhost:{}{prefix}/cdn/{name}", self.port)),
                    header("X-Linked-Etag", format!("\"{}\"", sha256(bytes))),
                    header("X-Linked-Size", bytes.len().to_string()),
                ];
                (302, headers, Vec::new(), usize::MAX)
            } else {
                (307, vec![header("Location", format!("{prefix}/small/{name}"))], Vec::new(), usize::MAX)
            };
        }
        let (name, large) = match (path.strip_prefix("/cdn/"), path.strip_prefix("/small/")) {
            (Some(name), _) => (name, true),
            (_, Some(name)) => (name, false),
            _ => return plain(404, "no such path"),
        };
        let Some((_, bytes)) = files.iter().find(|(file, _)| file == name) else { return plain(404, "no such file") };
        self.transfer(request, bytes.clone(), large)
    }

    /// The list of another repository, or the path that leads to what one of its files holds.
    fn of_another(&self, path: &str) -> Option<Result<String, String>> {
        self.set(|state| {
            let list = |files: &[String]| {
                let siblings: Vec<_> = files.iter().map(|name| serde_json::json!({ "rfilename": name })).collect();
                serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string()
            };
            state.others.iter().find_map(|(repo, files)| {
                if path == format!("/api/models/{repo}/revision/main") {
                    return Some(Ok(list(files)));
                }
                let file = path.strip_prefix(&format!("/{repo}/resolve/{COMMIT}/"))?;
                let held = &state.files[0].0;
                files.iter().any(|name| name == file).then(|| Err(format!("/org/name/resolve/{COMMIT}/{held}")))
            })
        })
    }

    fn transfer(
        &self,
        request: &Request,
        mut bytes: Vec<u8>,
        large: bool,
    ) -> (u16, Vec<(String, String)>, Vec<u8>, usize) {
        let mut headers = vec![("ETag".to_owned(), format!("\"{}\"", &sha256(&bytes)[..40]))];
        let mut sent = usize::MAX;
        let in_trouble = self.set(|state| {
            let times = match state.trouble {
                _ if !large || request.method != "GET" => return None,
                Some(Trouble::Cut { times, .. } | Trouble::Status { times, .. }) => times,
                _ => usize::MAX,
            };
            state.troubled += 1;
            state.trouble.filter(|_| state.troubled <= times)
        });
        let whole = bytes.len();
        match in_trouble {
            Some(Trouble::Status { code, .. }) => return (code, Vec::new(), b"busy".to_vec(), usize::MAX),
            Some(Trouble::Cut { after, .. }) => sent = after,
            Some(Trouble::OtherBytes) => bytes[whole / 2] ^= 1,
            Some(Trouble::TooMany) => bytes.extend([0; 100]),
            _ => {}
        }
        let range = request.headers.get("range").filter(|_| in_trouble != Some(Trouble::NoRanges));
        let start = range.map(|range| range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap());
        match start {
            None => (200, headers, bytes, sent),
            Some(start) if start >= bytes.len() => (416, headers, Vec::new(), sent),
            Some(start) => {
                headers.push(("Content-Range".into(), format!("bytes {start}-{}/{whole}", whole - 1)));
                (206, headers, bytes.split_off(start), sent)
            }
        }
    }
}

/// A proxy that tunnels (CONNECT), and the addresses that it was asked for.
pub fn start_proxy() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&asked);
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let noted = Arc::clone(&noted);
            thread::spawn(move || {
                let Some(request) = read(&mut client).filter(|request| request.method == "CONNECT") else { return };
                noted.lock().unwrap().push(request.path.clone());
                let mut server = TcpStream::connect(&request.path).unwrap();
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || io::copy(&mut from_client, &mut to_server));
                let _ = io::copy(&mut server, &mut client);
                let _ = client.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    (port, asked)
}

/// Keys of no worth: made for this server, by an authority whose key is gone.
mod tls {
    use rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    };

    pub fn config() -> ServerConfig {
        let chain = CertificateDer::from_pem_slice(include_bytes!("tls/server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/server.key")).unwrap();
        let builder = ServerConfig::builder_with_provider(ring::default_provider().into());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        builder.with_no_client_auth().with_single_cert(vec![chain], key).unwrap()
    }
}

fn read(stream: &mut impl Read) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())))
        .collect();
    Some(Request { method, path, headers })
}
