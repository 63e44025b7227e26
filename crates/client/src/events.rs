//! The event stream: `text/event-stream` that goes on where it stopped when the connection breaks.

use std::{pin::Pin, time::Duration};

use fota_proto::manager::Event;
use reqwest::{Method, header};
use tokio::time::Sleep;

use crate::{Client, Error, Result, SILENCE_MAX, send};

/// First wait before connecting again; doubled each time up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// Longest wait before connecting again.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Longest line of a stream, bytes; an event is a few hundred.
const LINE_BYTES_MAX: usize = 256 * 1024;

/// What comes out of an [`EventStream`].
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// The connection is up, for the first time or again. Whatever is not in the history
    /// (progress) may have been missed: read the state anew.
    Connected,
    /// The connection is down; the stream is trying again.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// Something happened.
    Event(Box<Event>),
}

/// The history as it grows. It connects again by itself, from the last event it saw.
#[derive(Debug)]
pub struct EventStream {
    client: Client,
    rollout: Option<i64>,
    last_id: Option<i64>,
    retry: Duration,
    state: State,
}

#[derive(Debug)]
enum State {
    /// `wait` is over before the next try; none means at once.
    Down { wait: Option<Pin<Box<Sleep>>> },
    Up {
        response: reqwest::Response,
        lines: Lines,
    },
}

impl Client {
    /// Follows the history, of one rollout or of everything, after event `after` or from now on.
    pub fn event_stream(&self, rollout: Option<i64>, after: Option<i64>) -> EventStream {
        EventStream {
            client: self.clone(),
            rollout,
            last_id: after,
            retry: RETRY_FIRST,
            state: State::Down { wait: None },
        }
    }
}

impl EventStream {
    /// The next thing that happens. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Problem`] and [`Error::Protocol`], which trying again would not mend.
    pub async fn next(&mut self) -> Result<Incoming> {
        loop {
            let found = match &mut self.state {
                State::Down { wait } => {
                    if let Some(waiting) = wait {
                        waiting.as_mut().await;
                        *wait = None;
                    }
                    return self.connect().await;
                }
                State::Up { lines, .. } => lines.next_event(),
            };
            match found {
                Some(Ok(event)) => return Ok(self.take(event)),
                Some(Err(reason)) => return Err(self.broken(reason)),
                None => {
                    if let Some(reason) = self.read().await {
                        return Ok(self.disconnected(reason));
                    }
                }
            }
        }
    }

    fn take(&mut self, event: Event) -> Incoming {
        self.retry = RETRY_FIRST;
        // Progress is streamed but not stored: it has no place in the history to resume from.
        if event.id > 0 {
            self.last_id = Some(event.id);
        }
        Incoming::Event(Box::new(event))
    }

    fn broken(&self, reason: String) -> Error {
        Error::protocol(&self.client.url("/api/v1/events/stream"), reason)
    }

    fn disconnected(&mut self, reason: String) -> Incoming {
        let wait = Some(Box::pin(tokio::time::sleep(self.retry)));
        self.state = State::Down { wait };
        self.retry = (self.retry * 2).min(RETRY_MAX);
        Incoming::Disconnected { reason }
    }

    async fn connect(&mut self) -> Result<Incoming> {
        let mut request = self
            .client
            .request(Method::GET, "/api/v1/events/stream")
            .header(header::ACCEPT, "text/event-stream");
        if let Some(rollout) = self.rollout {
            request = request.query(&[("rollout", rollout)]);
        }
        if let Some(id) = self.last_id {
            request = request.header("Last-Event-ID", id);
        }
        match send(request).await {
            Ok(response) => {
                let lines = Lines::default();
                self.state = State::Up { response, lines };
                Ok(Incoming::Connected)
            }
            Err(Error::Problem(problem)) if problem.status >= 500 => {
                Ok(self.disconnected(problem.detail))
            }
            Err(Error::Unreachable { reason, .. }) => Ok(self.disconnected(reason)),
            Err(error) => Err(error),
        }
    }

    /// Reads more bytes; gives the reason where there are none.
    async fn read(&mut self) -> Option<String> {
        let State::Up { response, lines } = &mut self.state else {
            return None;
        };
        match tokio::time::timeout(SILENCE_MAX, response.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                lines.buffer.extend_from_slice(&bytes);
                None
            }
            Ok(Ok(None)) => Some("the server closed the stream".to_owned()),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("silent for {} s", SILENCE_MAX.as_secs())),
        }
    }
}

/// Bytes of the stream, cut into lines and events.
#[derive(Debug, Default)]
struct Lines {
    buffer: Vec<u8>,
    data: String,
}

impl Lines {
    /// The next event in what has arrived. Only `data` matters: id and kind are in it too.
    fn next_event(&mut self) -> Option<std::result::Result<Event, String>> {
        loop {
            let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') else {
                let bytes = self.buffer.len().max(self.data.len());
                return (bytes > LINE_BYTES_MAX)
                    .then(|| Err(format!("a line of more than {LINE_BYTES_MAX} bytes")));
            };
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\r', '\n']);
            if let Some(data) = line.strip_prefix("data:") {
                self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            } else if line.is_empty() && !self.data.is_empty() {
                let data = std::mem::take(&mut self.data);
                return Some(serde_json::from_str(&data).map_err(|error| error.to_string()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"id":7,"at":1,"kind":"device.seen","device":"d","rollout":null,"release":null,"actor":"device","text":"seen","state":null}"#;

    #[test]
    fn events_are_found_however_the_bytes_are_cut() {
        let text = format!(": keep-alive\n\nid: 7\nevent: device.seen\ndata: {EVENT}\n\n:\n\n");
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for part in [&text[..cut], &text[cut..]] {
                lines.buffer.extend_from_slice(part.as_bytes());
                while let Some(event) = lines.next_event() {
                    found.push(event.expect("valid").id);
                }
            }
            assert_eq!(found, [7], "cut at {cut}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let buffer = vec![b'x'; LINE_BYTES_MAX + 1];
        let data = String::new();
        let mut lines = Lines { buffer, data };
        assert!(lines.next_event().is_some_and(|event| event.is_err()));
    }
}
