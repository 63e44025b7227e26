//! The packets of MQTT 3.1.1 that a publisher needs, as bytes: OASIS, "MQTT Version 3.1.1", whose
//! section numbers stand beside what they define. Nothing here does I/O.

/// Longest packet that is read: a command is a few bytes, what is retained of ours a few hundred.
pub const PACKET_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the field that says how long a packet is (2.2.3).
const LENGTH_BYTES_MAX: usize = 4;

/// What is said when the connection begins (3.1).
#[derive(Clone, Debug)]
pub struct Connect<'a> {
    pub client_id: &'a str,
    pub user: Option<&'a str>,
    pub password: Option<&'a str>,
    pub keep_alive_s: u16,
    /// Published, retained, by the broker when the connection is lost.
    pub will: Publish<'a>,
}

/// A message (3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub retain: bool,
}

/// What a broker sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The answer to a connect; 0 lets in (3.2).
    ConnAck {
        code: u8,
    },
    /// A message at quality of service 0, or 1 with the number that an acknowledgement names.
    Publish {
        topic: String,
        payload: Vec<u8>,
        retain: bool,
        acknowledge: Option<u16>,
    },
    PubAck {
        id: u16,
    },
    /// The broker refused where the byte is 0x80 (3.9.3).
    SubAck {
        codes: Vec<u8>,
    },
    UnsubAck,
    Pong,
}

/// Bytes that are no packet that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a packet of {0} bytes; at most {PACKET_BYTES_MAX} are taken")]
    TooLong(usize),
    #[error("a packet length that does not end")]
    Length,
    #[error("a packet of the kind {0}, which was not asked for")]
    Kind(u8),
    #[error("a packet that ends too early")]
    Short,
    #[error("a topic that is no UTF-8")]
    Topic,
}

/// CONNECT, with a clean session: what is published is published anew after each connection.
pub fn connect(connect: &Connect<'_>) -> Vec<u8> {
    const CLEAN_SESSION: u8 = 0x02;
    const WILL: u8 = 0x04 | 0x08 | 0x20; // at quality of service 1, retained
    let (user, password) = (
        connect.user,
        connect.password.filter(|_| connect.user.is_some()),
    );
    let mut flags = CLEAN_SESSION | WILL;
    flags |= if user.is_some() { 0x80 } else { 0 };
    flags |= if password.is_some() { 0x40 } else { 0 };
    let mut body = Vec::new();
    text(&mut body, b"MQTT");
    body.extend([4, flags]); // protocol level 4 is 3.1.1
    body.extend(connect.keep_alive_s.to_be_bytes());
    text(&mut body, connect.client_id.as_bytes());
    text(&mut body, connect.will.topic.as_bytes());
    text(&mut body, connect.will.payload);
    for part in [user, password].into_iter().flatten() {
        text(&mut body, part.as_bytes());
    }
    packet(0x10, &body)
}

/// PUBLISH at quality of service 1.
pub fn publish(message: &Publish<'_>, id: u16) -> Vec<u8> {
    let mut body = Vec::with_capacity(message.topic.len() + message.payload.len() + 4);
    text(&mut body, message.topic.as_bytes());
    body.extend(id.to_be_bytes());
    body.extend(message.payload);
    packet(0x32 | u8::from(message.retain), &body)
}

/// PUBACK.
pub fn acknowledge(id: u16) -> Vec<u8> {
    packet(0x40, &id.to_be_bytes())
}

/// SUBSCRIBE at quality of service 1.
pub fn subscribe(id: u16, topic: &str) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    text(&mut body, topic.as_bytes());
    body.push(1);
    packet(0x82, &body)
}

/// UNSUBSCRIBE.
pub fn unsubscribe(id: u16, topic: &str) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    text(&mut body, topic.as_bytes());
    packet(0xA2, &body)
}

/// PINGREQ.
pub const PING: [u8; 2] = [0xC0, 0];
/// DISCONNECT: the broker publishes no will after it.
pub const DISCONNECT: [u8; 2] = [0xE0, 0];

/// A text or bytes with their length before them (1.5.3).
fn text(body: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    body.extend(length.to_be_bytes());
    body.extend(&bytes[..usize::from(length)]);
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + 1 + LENGTH_BYTES_MAX);
    bytes.push(first);
    let mut rest = body.len();
    loop {
        let digit = (rest % 128) as u8;
        rest /= 128;
        bytes.push(digit | if rest > 0 { 0x80 } else { 0 });
        if rest == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

/// The first packet in `bytes` and how many bytes it is; none while it is not all there.
///
/// # Errors
/// Where the bytes are no packet that a publisher is sent.
pub fn parse(bytes: &[u8]) -> Result<Option<(Incoming, usize)>, Malformed> {
    let Some((length, header)) = length(bytes)? else {
        return Ok(None);
    };
    if length > PACKET_BYTES_MAX {
        return Err(Malformed::TooLong(length));
    }
    let Some(body) = bytes.get(header..header + length) else {
        return Ok(None);
    };
    Ok(Some((incoming(bytes[0], body)?, header + length)))
}

/// The length of the body, and the bytes before it.
fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut length = 0;
    for place in 0..LENGTH_BYTES_MAX {
        let Some(byte) = bytes.get(1 + place) else {
            return Ok(None);
        };
        length |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Some((length, 2 + place)));
        }
    }
    Err(Malformed::Length)
}

fn incoming(first: u8, body: &[u8]) -> Result<Incoming, Malformed> {
    let id = || number(body).ok_or(Malformed::Short);
    Ok(match first >> 4 {
        2 => Incoming::ConnAck {
            code: *body.get(1).ok_or(Malformed::Short)?,
        },
        3 => message(first, body)?,
        4 => Incoming::PubAck { id: id()? },
        9 => Incoming::SubAck {
            codes: body.get(2..).ok_or(Malformed::Short)?.to_vec(),
        },
        11 => Incoming::UnsubAck,
        13 => Incoming::Pong,
        kind => return Err(Malformed::Kind(kind)),
    })
}

fn number(bytes: &[u8]) -> Option<u16> {
    let first = bytes.first_chunk()?;
    Some(u16::from_be_bytes(*first))
}

fn message(first: u8, body: &[u8]) -> Result<Incoming, Malformed> {
    let length = usize::from(number(body).ok_or(Malformed::Short)?);
    let topic = body.get(2..2 + length).ok_or(Malformed::Short)?;
    let topic = std::str::from_utf8(topic).map_err(|_| Malformed::Topic)?;
    let rest = &body[2 + length..];
    let (acknowledge, payload) = match (first >> 1) & 3 {
        0 => (None, rest),
        1 => (Some(number(rest).ok_or(Malformed::Short)?), &rest[2..]),
        // Never more than what was subscribed to.
        _ => return Err(Malformed::Kind(3)),
    };
    Ok(Incoming::Publish {
        topic: topic.to_owned(),
        payload: payload.to_vec(),
        retain: first & 1 == 1,
        acknowledge,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn packets_are_those_of_the_specification() {
        let will = Publish {
            topic: "w",
            payload: b"off",
            retain: true,
        };
        let plain = Connect {
            client_id: "id",
            user: None,
            password: Some("ignored without a user"),
            keep_alive_s: 60,
            will,
        };
        assert_eq!(
            connect(&plain),
            b"\x10\x16\0\x04MQTT\x04\x2E\0\x3C\0\x02id\0\x01w\0\x03off"
        );
        let named = Connect {
            user: Some("u"),
            password: Some("p"),
            ..plain
        };
        let bytes = connect(&named);
        assert_eq!((bytes[1], bytes[9]), (0x1C, 0xEE));
        assert!(bytes.ends_with(b"\0\x01u\0\x01p"));
        let message = Publish {
            topic: "a/b",
            payload: b"hi",
            retain: true,
        };
        assert_eq!(publish(&message, 10), b"\x33\x09\0\x03a/b\0\x0Ahi");
        assert_eq!(subscribe(1, "a/+"), b"\x82\x08\0\x01\0\x03a/+\x01");
        assert_eq!(unsubscribe(2, "a"), b"\xA2\x05\0\x02\0\x01a");
        assert_eq!(acknowledge(3), b"\x40\x02\0\x03");
        // 321 bytes are 65 + 2 * 128 (2.2.3).
        let long = publish(
            &Publish {
                topic: "t",
                payload: &[7; 316],
                retain: false,
            },
            1,
        );
        assert_eq!(long[..3], [0x32, 0xC1, 0x02]);
    }

    #[test]
    fn what_a_broker_answers_is_read() {
        let read = |bytes: &[u8]| parse(bytes).map(|found| found.map(|(packet, _)| packet));
        assert_eq!(
            read(b"\x20\x02\0\x05"),
            Ok(Some(Incoming::ConnAck { code: 5 }))
        );
        assert_eq!(
            read(b"\x40\x02\x01\x02"),
            Ok(Some(Incoming::PubAck { id: 258 }))
        );
        assert_eq!(
            read(b"\x90\x03\0\x01\x80"),
            Ok(Some(Incoming::SubAck { codes: vec![0x80] }))
        );
        assert_eq!(read(b"\xD0\0"), Ok(Some(Incoming::Pong)));
        assert_eq!(read(b"\x30\x04\0"), Ok(None), "not all there");
        assert_eq!(read(b"\x30\x01\0"), Err(Malformed::Short));
        assert_eq!(read(b"\x30\xFF\xFF\xFF\xFF"), Err(Malformed::Length));
        assert_eq!(
            read(b"\x30\xFF\xFF\x7F"),
            Err(Malformed::TooLong(2_097_151))
        );
        assert_eq!(read(b"\x34\x03\0\x01a"), Err(Malformed::Kind(3)));
        assert_eq!(read(b"\x10\0"), Err(Malformed::Kind(1)));
    }

    proptest! {
        #[test]
        fn a_message_is_read_as_it_was_written(topic in "[a-z/]{1,20}", payload: Vec<u8>, retain: bool, id: u16) {
            let bytes = publish(&Publish { topic: &topic, payload: &payload, retain }, id);
            let wanted = Incoming::Publish { topic, payload, retain, acknowledge: Some(id) };
            prop_assert_eq!(parse(&bytes), Ok(Some((wanted, bytes.len()))));
            for cut in 0..bytes.len() {
                prop_assert_eq!(parse(&bytes[..cut]), Ok(None));
            }
        }

        #[test]
        fn no_bytes_are_a_panic(bytes: Vec<u8>) {
            if let Ok(Some((_, used))) = parse(&bytes) {
                prop_assert!(used <= bytes.len());
            }
        }
    }
}
