//! A loopback proxy that notes the size of each HTTP exchange that passes through it.
//!
//! It understands just enough HTTP/1.1: a head ends with an empty line, and on a kept connection
//! the next request starts when the client sends again after the server has.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

/// Longest request or answer head, bytes: what hyper allows at most in practice.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// One request and its answer, in bytes of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Which connection, counted from the start of the recording.
    pub connection: u32,
    /// Method and path, e.g. `GET /api/inverter/fota/manifest`.
    pub target: String,
    /// First byte of a `Range` header; 0 without one.
    pub range_start: u64,
    /// Request line and headers.
    pub request_head: u64,
    /// Request body.
    pub request_body: u64,
    /// Status line and headers.
    pub answer_head: u64,
    /// Answer body.
    pub answer_body: u64,
}

impl Exchange {
    /// The whole request.
    pub const fn request_bytes(&self) -> u64 {
        self.request_head + self.request_body
    }

    /// The whole answer.
    pub const fn answer_bytes(&self) -> u64 {
        self.answer_head + self.answer_body
    }
}

/// The proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    notes: Arc<Mutex<Vec<Note>>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Note {
    connection: u32,
    request: Message,
    answer: Message,
}

#[derive(Debug, Default)]
struct Message {
    head: Vec<u8>,
    head_complete: bool,
    body_bytes: u64,
}

impl Recorder {
    /// Listens on a free loopback port and forwards to `upstream`.
    pub async fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let notes = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(accept(listener, upstream, Arc::clone(&notes)));
        Ok(Self {
            address,
            notes,
            task,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has passed since the last call, in the order the requests began.
    pub fn take(&self) -> Vec<Exchange> {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.drain(..).map(Note::exchange).collect()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Note {
    fn exchange(self) -> Exchange {
        let line = String::from_utf8_lossy(&self.request.head);
        let target = line.lines().next().unwrap_or_default();
        let target = target.trim_end_matches(" HTTP/1.1").to_owned();
        Exchange {
            connection: self.connection,
            target,
            range_start: range_start(&line),
            request_head: self.request.head.len() as u64,
            request_body: self.request.body_bytes,
            answer_head: self.answer.head.len() as u64,
            answer_body: self.answer.body_bytes,
        }
    }
}

/// `Range: bytes=START-`
fn range_start(head: &str) -> u64 {
    let headers = head.lines().filter_map(|line| line.split_once(':'));
    let mut ranges = headers.filter(|(name, _)| name.eq_ignore_ascii_case("range"));
    let range = ranges
        .next()
        .and_then(|(_, value)| value.trim().strip_prefix("bytes="));
    let start = range.and_then(|range| range.split_once('-')?.0.parse().ok());
    start.unwrap_or(0)
}

impl Message {
    fn add(&mut self, bytes: &[u8]) {
        if self.head_complete || self.head.len() > HEAD_BYTES_MAX {
            self.body_bytes += bytes.len() as u64;
            return;
        }
        self.head.extend_from_slice(bytes);
        let end = self.head.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            self.body_bytes = (self.head.len() - end - 4) as u64;
            self.head.truncate(end + 4);
            self.head_complete = true;
        }
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, notes: Arc<Mutex<Vec<Note>>>) {
    let mut connection = 0;
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(upstream).await else {
            continue;
        };
        forward(client, server, connection, &notes);
        connection += 1;
    }
}

fn forward(client: TcpStream, server: TcpStream, connection: u32, notes: &Arc<Mutex<Vec<Note>>>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (up, down) = (Arc::clone(notes), Arc::clone(notes));
    tokio::spawn(copy(from_client, to_server, move |bytes| {
        note_request(
            &mut up.lock().unwrap_or_else(PoisonError::into_inner),
            connection,
            bytes,
        );
    }));
    tokio::spawn(copy(from_server, to_client, move |bytes| {
        let mut notes = down.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(note) = last_of(&mut notes, connection) {
            note.answer.add(bytes);
        }
    }));
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut note: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        note(&buffer[..count]);
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    // The other side may already be gone, which is how a connection usually ends.
    let _ = to.shutdown().await;
}

fn note_request(notes: &mut Vec<Note>, connection: u32, bytes: &[u8]) {
    let answered = |note: &mut Note| !note.answer.head.is_empty();
    if last_of(notes, connection).is_none_or(answered) {
        notes.push(Note {
            connection,
            request: Message::default(),
            answer: Message::default(),
        });
    }
    if let Some(note) = last_of(notes, connection) {
        note.request.add(bytes);
    }
}

fn last_of(notes: &mut [Note], connection: u32) -> Option<&mut Note> {
    let mut recent = notes.iter_mut().rev();
    recent.find(|note| note.connection == connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer_two_requests(listener: TcpListener) {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let mut buffer = [0; 1024];
        for _ in 0..2 {
            let _ = stream.read(&mut buffer).await.expect("request");
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
            stream.write_all(answer).await.expect("answer");
        }
    }

    #[tokio::test]
    async fn two_requests_on_one_connection_are_two_exchanges() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let upstream = listener.local_addr().expect("address");
        tokio::spawn(answer_two_requests(listener));
        let recorder = Recorder::start(upstream).await.expect("start");
        let mut stream = TcpStream::connect(recorder.address())
            .await
            .expect("connect");
        for request in ["GET /a HTTP/1.1\r\n\r\n", "POST /b HTTP/1.1\r\n\r\nbody"] {
            stream.write_all(request.as_bytes()).await.expect("send");
            let mut answer = [0; 43];
            stream.read_exact(&mut answer).await.expect("answer");
        }
        let seen = recorder.take();
        let sizes: Vec<_> = seen
            .iter()
            .map(|e| {
                (
                    e.target.as_str(),
                    e.request_head,
                    e.request_body,
                    e.answer_head,
                    e.answer_body,
                )
            })
            .collect();
        assert_eq!(sizes, [("GET /a", 19, 0, 38, 5), ("POST /b", 20, 4, 38, 5)]);
    }
}
