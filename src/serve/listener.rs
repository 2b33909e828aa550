//! Places to listen at: addresses, and on Unix sockets of the file system.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
#[cfg(unix)]
use {
    std::{
        fs,
        os::unix::{fs::FileTypeExt, net::UnixStream},
        path::PathBuf,
    },
    tokio::net::UnixListener,
};

/// Bytes to and from a client.
pub type Stream = Pin<Box<dyn Bytes>>;

/// Both directions of a connection.
pub trait Bytes: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Bytes for T {}

/// True for a host that is the path of a Unix socket.
pub fn is_socket(host: &str) -> bool {
    host.ends_with(".sock")
}

/// One place to listen at.
pub enum Listener {
    Tcp(TcpListener, SocketAddr),
    #[cfg(unix)]
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Listens on a name or address and this port, or on a Unix socket.
    pub async fn bind(host: &str, port: u16) -> io::Result<Self> {
        if is_socket(host) {
            return Self::bind_socket(host);
        }
        let listener = TcpListener::bind((host.trim_matches(['[', ']']), port)).await?;
        let address = listener.local_addr()?;
        Ok(Self::Tcp(listener, address))
    }

    #[cfg(unix)]
    fn bind_socket(path: &str) -> io::Result<Self> {
        // Left behind by a process that was killed: nobody answers there.
        let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        if is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            fs::remove_file(path)?;
        }
        Ok(Self::Unix(UnixListener::bind(path)?, path.into()))
    }

    #[cfg(not(unix))]
    fn bind_socket(_path: &str) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no Unix sockets"))
    }

    /// Its port; `None` for a socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(_, address) => Some(address.port()),
            #[cfg(unix)]
            Self::Unix(..) => None,
        }
    }

    /// Where it is, as a URL.
    pub fn url(&self) -> String {
        match self {
            Self::Tcp(_, address) => format!("http://{address}"),
            #[cfg(unix)]
            Self::Unix(_, path) => format!("unix://{}", path.display()),
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        match self {
            Self::Tcp(listener, _) => listener.poll_accept(context).map_ok(|(stream, _)| {
                // Tokens are small: each is to arrive at once.
                let _ = stream.set_nodelay(true);
                Box::pin(stream) as Stream
            }),
            #[cfg(unix)]
            Self::Unix(listener, _) => listener.poll_accept(context).map_ok(|(stream, _)| Box::pin(stream) as Stream),
        }
    }
}

#[cfg(unix)]
impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // It may be gone already.
            let _ = fs::remove_file(path);
        }
    }
}

/// The next connection at any of them.
pub async fn accept(listeners: &[Listener]) -> io::Result<Stream> {
    poll_fn(|context| {
        let mut accepted = listeners.iter().map(|listener| listener.poll_accept(context));
        accepted.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}
