//! Webhooks of `fota serve` as a process: what a kill leaves undelivered comes, under the same id.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use fota_sim::firmware::Behaviour;
use serde_json::Value;

use crate::harness::Server;

/// A message: its id, the number of its event, and whether it was answered.
type Got = (String, i64, bool);

/// A receiver that answers, or keeps everybody waiting.
struct Receiver {
    url: String,
    answers: Arc<AtomicBool>,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("bound"));
        let receiver = Self {
            url,
            answers: Arc::new(AtomicBool::new(true)),
            got: Arc::default(),
        };
        let (answers, got) = (receiver.answers.clone(), receiver.got.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answers, got) = (answers.clone(), got.clone());
                std::thread::spawn(move || serve(stream, &answers, &got));
            }
        });
        receiver
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().expect("whole").clone()
    }
}

fn serve(stream: TcpStream, answers: &AtomicBool, got: &Mutex<Vec<Got>>) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut id, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("webhook-id: ") {
                value.clone_into(&mut id);
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let event = body["data"]["id"].as_i64().expect("an event");
        let is_answered = answers.load(Ordering::SeqCst);
        got.lock().expect("whole").push((id, event, is_answered));
        // Whoever is not answered waits until it is killed.
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        if is_answered && reader.get_mut().write_all(answer).is_err() {
            return;
        }
    }
}

#[test]
fn kill_9_in_the_middle_of_a_delivery_loses_no_event_and_keeps_the_id() {
    let mut server = Server::start();
    let receiver = Receiver::start();
    server
        .fota(&["webhook", "add", "ops", &receiver.url, "--events", "*"])
        .exits(0);
    let uploads = |server: &Server, versions: &[&str]| {
        for version in versions {
            let name = server.place.firmware(version, Behaviour::Works);
            server.fota(&["upload", &name]).exits(0);
        }
    };
    uploads(&server, &["1.0.1", "1.0.2"]);
    let has = |number: usize, answered: bool| {
        let got = receiver.got();
        got.iter().filter(|(.., is)| *is == answered).count() >= number
    };
    server.until("two are delivered", |_| has(2, true));
    for round in 0..3 {
        receiver.answers.store(false, Ordering::SeqCst);
        let (one, two) = (format!("2.{round}.1"), format!("2.{round}.2"));
        uploads(&server, &[&one, &two]);
        server.until("one is under way", |_| has(round + 1, false));
        server.kill();
        receiver.answers.store(true, Ordering::SeqCst);
        server.restart();
        server.until("both are delivered", |_| has(2 * (round + 2), true));
    }
    let got = receiver.got();
    // What was not answered came again, and was answered then.
    for (id, event, _) in got.iter().filter(|(.., answered)| !answered) {
        let again = |other: &&Got| other.0 == *id && other.1 == *event && other.2;
        assert!(got.iter().any(|other| again(&other)), "{event}: {got:?}");
    }
    // No event is missing, each has one id, and they came in their order.
    let mut answered: Vec<(i64, String)> = got
        .into_iter()
        .filter(|(.., answered)| *answered)
        .map(|(id, event, _)| (event, id))
        .collect();
    assert!(answered.is_sorted(), "{answered:?}");
    answered.dedup();
    let events: Vec<i64> = answered.iter().map(|(event, _)| *event).collect();
    // That of the webhook itself, and eight uploads.
    assert_eq!(events, (1..=9).collect::<Vec<_>>(), "{answered:?}");
}
