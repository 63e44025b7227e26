//! An answer that was not decided, only a challenge for the next check-in.

mod common;

use common::{IMAGE_BYTES, bench, exchange, firmware, order_install, updater};
use fota_device::{CHECK_IN_BYTES_MAX, Next, Updater};
use fota_proto::checkin::{self, Answer, CheckIn};
use fota_sim::{firmware::Behaviour, flash::SimFlash};

const CHALLENGE: [u8; 8] = [0xc0; 8];

/// A check-in that the server does not take; what it repeated, and what comes next.
fn not_taken(updater: &mut Updater<&mut SimFlash>) -> (Option<[u8; 8]>, Next) {
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    let request = updater.check_in(79, 1, &mut buffer);
    let repeated = minicbor::decode::<CheckIn>(request).unwrap().challenge;
    let answer = Answer {
        challenge: Some(CHALLENGE),
        ..Answer::nothing(79, 0)
    };
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    let answer = checkin::encode(&answer, &mut buffer).unwrap();
    (repeated, updater.answer(answer).unwrap())
}

#[test]
fn the_challenge_of_an_answer_is_repeated_in_the_next_check_in() {
    let mut bench = bench(true);
    let server = bench.server.clone();
    let mut updater = updater(&mut bench);
    let (repeated, next) = not_taken(&mut updater);
    assert_eq!((repeated, next), (None, Next::Wait { seconds: 1 }));
    let (_, repeated) = exchange(&mut updater, &server, |request| request.challenge);
    assert_eq!(repeated, Some(CHALLENGE));
}

#[test]
fn a_check_in_that_was_not_taken_costs_a_download_nothing() {
    let mut bench = bench(true);
    let artifact = firmware("2.0.0", Behaviour::Works);
    order_install(&mut bench, 7, &artifact);
    let server = bench.server.clone();
    let mut updater = updater(&mut bench);
    let mut next = exchange(&mut updater, &server, |_| ()).0;
    while !matches!(next, Next::Download(_)) {
        next = exchange(&mut updater, &server, |_| ()).0;
    }
    let half = IMAGE_BYTES / 2;
    updater.receive(&artifact.bytes()[..half]).unwrap();
    // A progress report that is not taken: the download goes on at the very byte.
    let Next::Download(part) = not_taken(&mut updater).1 else {
        panic!("the download was given up");
    };
    assert_eq!(part.from, half as u32);
    updater.receive(&artifact.bytes()[half..]).unwrap();
    // Nor does one between the last byte and the proof undo anything.
    not_taken(&mut updater);
    assert_eq!(updater.next(), Next::Prove);
    assert!(updater.prove().is_ok());
}
