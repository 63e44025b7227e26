//! What a webhook is sent.

use fota_proto::manager::Event;
use serde::Serialize;

/// A message: its id is the same whenever the same event is sent to the same webhook again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub id: String,
    pub body: String,
}

/// The body, as Standard Webhooks recommends it.
#[derive(Serialize)]
struct Body<'a> {
    r#type: &'a str,
    timestamp: String,
    data: &'a Event,
}

/// The message for a stored event. The time when the webhook was added makes ids of two servers,
/// and of two webhooks of one name one after the other, differ.
pub fn of_event(created_at: i64, event: &Event) -> Message {
    let id = format!("evt_{created_at}_{}", event.id);
    message(id, event)
}

/// The message that `fota webhook test` sends.
pub fn test(created_at: i64, now: i64) -> Message {
    let event = Event {
        id: 0,
        at: now,
        kind: "webhook.test".to_owned(),
        device: None,
        rollout: None,
        release: None,
        actor: "operator".to_owned(),
        text: "a test: nothing has happened".to_owned(),
        state: None,
        bytes_done: None,
        bytes_total: None,
    };
    message(format!("test_{created_at}_{now}"), &event)
}

fn message(id: String, event: &Event) -> Message {
    let body = Body {
        r#type: &event.kind,
        timestamp: time(event.at),
        data: event,
    };
    let body = serde_json::to_string(&body).expect("plain data has a JSON form");
    Message { id, body }
}

/// `2026-11-23T12:33:26.908Z`.
pub fn time(at_ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(at_ms);
    time.map_or_else(|_| at_ms.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_what_happened() {
        let event = Event {
            id: 42,
            at: 1_795_435_200_123,
            kind: "attempt.failed".to_owned(),
            device: Some("ESP32-001".to_owned()),
            rollout: Some(3),
            release: Some(7),
            actor: "device".to_owned(),
            text: "1.0.6: failed:hash_mismatch".to_owned(),
            state: "failed:hash_mismatch".parse().ok(),
            bytes_done: None,
            bytes_total: None,
        };
        let message = of_event(1_795_000_000_000, &event);
        assert_eq!(message, of_event(1_795_000_000_000, &event));
        assert_eq!(message.id, "evt_1795000000000_42");
        assert_eq!(
            message.body,
            r#"{"type":"attempt.failed","timestamp":"2026-11-23T12:00:00.123Z","data":{"id":42,"at":1795435200123,"kind":"attempt.failed","device":"ESP32-001","rollout":3,"release":7,"actor":"device","text":"1.0.6: failed:hash_mismatch","state":"failed:hash_mismatch"}}"#
        );
    }
}
