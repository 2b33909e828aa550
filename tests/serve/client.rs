//! A server as a process, and a client that writes and reads bytes.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    process::{Child, ChildStderr, Command},
    thread::{self, sleep},
    time::Duration,
};

use serde_json::{Value, json};

use crate::common::cli::program;

/// A limit for reads, not a measurement: a server that hangs fails the test.
const LIMIT: Duration = Duration::from_secs(120);

/// Time between two looks at something that changes.
pub const LOOK: Duration = Duration::from_millis(20);

/// At any free port.
const ON_THE_PROCESSOR: [&str; 7] = ["serve", "--backend", "cpu", "-t", "2", "--port", "0"];

/// A running server. It ends with the value.
pub struct Server {
    pub child: Child,
    pub address: String,
    stderr: Option<BufReader<ChildStderr>>,
}

impl Server {
    /// On the processor and any free port; waits until the model is loaded.
    pub fn start(flags: &[&str]) -> Self {
        Self::start_loading(flags).when_loaded()
    }

    /// On a GPU, a software one as well, that fails as `fault` says.
    pub fn start_with_fault(fault: &str, flags: &[&str]) -> Self {
        let mut command = program(&[&["serve", "--backend", "gpu", "--port", "0"], flags].concat());
        Self::spawn(command.env("BITNET_TEST_GPU_FAULT", fault)).when_loaded()
    }

    /// On a machine whose free memory is as `looks` say, one after the other: `max,0,max`.
    pub fn start_with_memory(looks: &str, flags: &[&str]) -> Self {
        let mut command = program(&[&ON_THE_PROCESSOR[..], flags].concat());
        Self::spawn(command.env("BITNET_TEST_FREE_MEMORY", looks)).when_loaded()
    }

    fn when_loaded(self) -> Self {
        let server = self;
        for _ in 0..3000 {
            if server.get("/health").status == 200 {
                return server;
            }
            sleep(LOOK);
        }
        panic!("the model is not loaded");
    }

    /// As soon as it listens.
    pub fn start_loading(flags: &[&str]) -> Self {
        Self::spawn(&mut program(&[&ON_THE_PROCESSOR[..], flags].concat()))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the program starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").expect("an address").to_owned();
        let stderr = Some(BufReader::new(child.stderr.take().unwrap()));
        Self { child, address, stderr }
    }

    /// A new connection.
    pub fn connect(&self) -> Connection {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Connection { reader: BufReader::new(stream) }
    }

    pub fn get(&self, path: &str) -> Response {
        self.connect().request("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.connect().request("POST", path, &[], body.to_string().as_bytes())
    }

    /// Answers being written now.
    pub fn busy_slots(&self) -> usize {
        let slots = self.get("/slots").json();
        slots.as_array().unwrap().iter().filter(|slot| slot["is_processing"] == true).count()
    }

    /// Waits until so many answers are being written.
    pub fn wait_for_busy_slots(&self, count: usize) {
        for _ in 0..3000 {
            if self.busy_slots() == count {
                return;
            }
            sleep(LOOK);
        }
        panic!("{} slots are busy, not {count}", self.busy_slots());
    }

    /// Waits until so many requests are queued, of a server with `--metrics`.
    pub fn wait_for_queued(&self, count: usize) {
        for _ in 0..3000 {
            if self.get("/metrics").body.contains(&format!("llamacpp:requests_deferred {count}\n")) {
                return;
            }
            sleep(LOOK);
        }
        panic!("{count} requests are not queued");
    }

    /// Waits until a line with this on standard error.
    pub fn wait_for_line(&mut self, part: &str) {
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            let read = self.stderr.as_mut().unwrap().read_line(&mut line).unwrap();
            assert!(read > 0, "it ended without saying {part:?}");
        }
    }

    /// Ends it; gives what it said on standard error.
    pub fn stop(mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut said = String::new();
        self.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }

    /// Asks it to end as `kill` does.
    #[cfg(unix)]
    pub fn terminate(&self) {
        let done = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(done.expect("kill runs").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection, on which requests may follow each other.
pub struct Connection {
    reader: BufReader<TcpStream>,
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The message of an error with this status.
    #[track_caller]
    pub fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.header("content-type").unwrap().starts_with("application/json"), "{self:?}");
        self.json()["error"]["message"].as_str().unwrap_or_else(|| panic!("no message: {self:?}")).to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }

    /// The events of a stream; the last is not JSON.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.header("content-type"), Some("text/event-stream"));
        let data: Vec<&str> =
            self.body.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
        let (last, events) = data.split_last().unwrap();
        assert_eq!(*last, "[DONE]");
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

impl Connection {
    /// A request and its response.
    pub fn request(&mut self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Response {
        self.send(method, path, headers, body);
        self.response()
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &[&str], body: &[u8]) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|header| header.starts_with("Host:")) {
            head += "Host: localhost\r\n";
        }
        for header in headers {
            head += &format!("{header}\r\n");
        }
        self.write(format!("{head}\r\n").as_bytes());
        self.write(body);
    }

    /// Bytes as they are. The server may have answered and closed before it read all of them.
    pub fn write(&mut self, bytes: &[u8]) {
        let _ = self.write_all(bytes);
    }

    /// Bytes as they are; an error where the server has closed the line.
    pub fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// The head of a response, behind interim ones.
    pub fn head(&mut self) -> Response {
        loop {
            let head = self.any_head();
            if head.status >= 200 {
                return head;
            }
        }
    }

    /// The next head, which may be that of an interim response.
    pub fn any_head(&mut self) -> Response {
        let mut status = String::new();
        self.reader.read_line(&mut status).expect("a status");
        let code = status.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {status:?}"));
        let mut response = Response { status: code.parse().unwrap(), headers: Vec::new(), body: String::new() };
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { return response };
            response.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }

    pub fn response(&mut self) -> Response {
        let mut response = self.head();
        let mut body = Vec::new();
        if response.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                body.extend(chunk);
            }
        } else {
            let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
            body.resize(length, 0);
            self.reader.read_exact(&mut body).unwrap();
        }
        response.body = String::from_utf8(body).expect("text");
        response
    }

    /// The next chunk of a stream; `None` at its end.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut size = String::new();
        self.reader.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_else(|_| panic!("no size of a chunk: {size:?}"));
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).unwrap();
        assert_eq!(&chunk[size..], b"\r\n");
        chunk.truncate(size);
        (size > 0).then_some(chunk)
    }

    /// Whether the server has closed it.
    pub fn is_closed(&mut self) -> bool {
        self.reader.read(&mut [0]).is_ok_and(|read| read == 0)
    }

    /// Has nothing more to say, but reads on.
    pub fn end_writing(&self) {
        self.reader.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// All that comes until the server closes.
    pub fn rest(&mut self) -> String {
        let mut text = String::new();
        self.reader.read_to_string(&mut text).unwrap();
        text
    }

    /// Goes away as a killed client does.
    pub fn hang_up(self) {
        let _ = self.reader.get_ref().shutdown(Shutdown::Both);
    }
}

/// A chat request with one question, greedy and short, and more fields.
pub fn chat(question: &str, more: Value) -> Value {
    let mut body = json!({
        "messages": [{ "role": "user", "content": question }],
        "temperature": 0,
        "max_tokens": 12,
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The text of a whole answer to a chat.
#[track_caller]
pub fn content(response: &Response) -> String {
    assert_eq!(response.status, 200, "{response:?}");
    response.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

/// The text of a stream, of its first choice.
pub fn streamed(events: &[Value]) -> String {
    let text = |event: &Value| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned);
    events.iter().filter_map(text).collect()
}

/// Runs all at once; results in their order.
pub fn at_once<T: Send, W: FnOnce() -> T + Send>(work: Vec<W>) -> Vec<T> {
    thread::scope(|scope| {
        let running: Vec<_> = work.into_iter().map(|work| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}
