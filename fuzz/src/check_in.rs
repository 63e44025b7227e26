//! The messages of the native protocol, as the other side may send them.

use fota_proto::{
    Sha256,
    checkin::{Answer, CheckIn, Held, SlotReport, SlotState, encode},
    limits::{HELD_MAX, SLOTS_MAX},
    list::List,
};

/// A check-in or an answer: what decodes, encodes to something that decodes to the same.
pub fn check_in(data: &[u8]) {
    let mut buffer = vec![0; data.len() + 64];
    if let Ok(message) = minicbor::decode::<CheckIn>(data) {
        let bytes = encode(&message, &mut buffer).expect("no longer than what was read");
        assert_eq!(
            minicbor::decode::<CheckIn>(bytes).expect("decodes"),
            message
        );
    }
    if let Ok(message) = minicbor::decode::<Answer>(data) {
        let bytes = encode(&message, &mut buffer).expect("no longer than what was read");
        assert_eq!(minicbor::decode::<Answer>(bytes).expect("decodes"), message);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let elf = Sha256([7; 32]);
    let slot = SlotReport {
        slot: 0,
        bytes: 1_572_864,
        state: SlotState::Image,
        elf: Some(elf),
        version: Some("1.0.5"),
    };
    let (mut slots, mut held) = (List::new(), List::new());
    (0..SLOTS_MAX).for_each(|_| slots.push(slot.clone()).expect("fits"));
    let claim = Held {
        bytes: 4096,
        digest: [1; 8],
    };
    (0..HELD_MAX).for_each(|_| held.push(claim).expect("fits"));
    let check_in = CheckIn {
        slots,
        rollback_slot: Some(1),
        held,
        ..CheckIn::idle("ESP32-001", "sensor", "1.0.5", elf)
    };
    let answer = Answer {
        acknowledged: Some(1),
        ..Answer::nothing(1, 60)
    };
    let mut buffer = [0; 2048];
    let first = encode(&check_in, &mut buffer).expect("fits").to_vec();
    vec![first, encode(&answer, &mut buffer).expect("fits").to_vec()]
}
