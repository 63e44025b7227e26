//! The `Range` header of a download.

// The file itself and not the crate: the server would bring a database into every fuzz build.
#[path = "../../crates/server/src/range.rs"]
#[allow(dead_code)]
mod server;

use server::{Answer, parse};

/// A length (8 bytes) and a header: what is answered lies inside the file.
pub fn range_header(data: &[u8]) {
    let Some((length, header)) = data.split_first_chunk() else {
        return;
    };
    let length = u64::from_le_bytes(*length);
    let Ok(header) = std::str::from_utf8(header) else {
        return;
    };
    match parse(header, length) {
        Answer::Part { start, end } => assert!(start <= end && end < length),
        Answer::Unsatisfiable | Answer::Whole => {}
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let headers = [
        "bytes=0-",
        "bytes=4096-8191",
        "bytes=-1",
        "bytes=0-0,5-6",
        "Bytes=99-1",
    ];
    let with_length = |header: &&str| [&100_000u64.to_le_bytes(), header.as_bytes()].concat();
    headers.iter().map(with_length).collect()
}
