//! The frames of a serial line.

use fota_proto::{
    Sha256,
    serial::{Ask, Deframer, Incoming, Reply, Request, SERIAL_FRAME_BYTES_MAX},
};

/// Bytes of a line: whatever comes, a message that is found can be sent again and is the same.
pub fn serial(data: &[u8]) {
    let mut deframer = Deframer::<SERIAL_FRAME_BYTES_MAX>::new();
    let mut out = [0; SERIAL_FRAME_BYTES_MAX];
    for byte in data {
        let Some(Incoming::Message(message)) = deframer.push(*byte) else {
            continue;
        };
        let request = Request::parse(message);
        let reply = Reply::parse(message);
        assert!(request.is_none() || reply.is_none());
        let frame = match (&request, &reply) {
            (Some(request), _) => request.encode(&mut out),
            (_, Some(reply)) => reply.encode(&mut out),
            _ => continue,
        };
        let frame = frame.expect("what came in a frame fits one");
        assert_eq!(once(frame), Some(message.to_vec()));
    }
}

/// The message of a frame.
fn once(frame: &[u8]) -> Option<Vec<u8>> {
    let mut deframer = Deframer::<SERIAL_FRAME_BYTES_MAX>::new();
    let mut found = None;
    for byte in frame {
        if let Some(Incoming::Message(message)) = deframer.push(*byte) {
            found = Some(message.to_vec());
        }
    }
    found
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let asks = [
        Ask::CheckIn(&[0xA5; 254]),
        Ask::Root(1),
        Ask::Blob {
            blob: Sha256([0; 32]),
            from: 0,
            to: 4096,
        },
        Ask::LogGrowth { from: 1, to: 2 },
    ];
    let mut out = [0; SERIAL_FRAME_BYTES_MAX];
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for ask in asks {
        let request = Request { tag: 1, ask };
        seeds.extend(request.encode(&mut out).map(<[u8]>::to_vec));
        let reply = request.reply(200, &[0; 300]);
        seeds.extend(reply.encode(&mut out).map(<[u8]>::to_vec));
    }
    seeds.push([&b"I (31) boot: text\r\n"[..], &seeds.concat()].concat());
    seeds
}
