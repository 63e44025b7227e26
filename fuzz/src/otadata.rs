//! `otadata`.

use fota_image::otadata::{ENTRY_BYTES, Entry, SEQ_EMPTY, State, active, next_seq, slot_of};

/// Two entries and a number of slots: choosing, switching and reading back.
pub fn otadata(data: &[u8]) {
    let Some((first, rest)) = data.split_first_chunk::<ENTRY_BYTES>() else {
        return;
    };
    let Some((second, rest)) = rest.split_first_chunk::<ENTRY_BYTES>() else {
        return;
    };
    let [slots, slot] = *rest.first_chunk().unwrap_or(&[2, 0]);
    let slots = slots % 16 + 1;
    let stored = [first, second].map(Entry::parse);
    assert_eq!(stored.map(|entry| entry.to_bytes()), [*first, *second]);
    switch(stored, slot % slots, slots);
    // With a right CRC the states and numbers are reached that a fuzzer would not find.
    switch(
        stored.map(|entry| Entry::new(entry.seq, entry.state)),
        slot % slots,
        slots,
    );
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let two = |first: Entry, second: Entry| [first.to_bytes(), second.to_bytes()].concat();
    let valid = |seq| Entry::new(seq, State::Valid);
    vec![
        two(valid(1), valid(2)),
        two(Entry::EMPTY, Entry::EMPTY),
        two(valid(5), Entry::new(6, State::New)),
        two(valid(SEQ_EMPTY - 1), Entry::new(7, State::Aborted)),
    ]
}

fn switch(entries: [Entry; 2], slot: u8, slots: u8) {
    let found = active(&entries);
    match found {
        None => assert!(entries.iter().all(|entry| !entry.usable())),
        Some(index) => {
            let (this, other) = (entries[index], entries[1 - index]);
            assert!(this.usable() && (!other.usable() || this.seq >= other.seq));
            assert!(slot_of(this.seq, slots) < slots);
        }
    }
    let current = found.map(|index| entries[index].seq);
    let seq = next_seq(current, slot, slots);
    if seq == SEQ_EMPTY {
        // Only at the end of the numbers, and then nothing is switched.
        assert!(current.is_some_and(|current| current > SEQ_EMPTY - 17));
        assert!(!Entry::new(seq, State::New).usable());
        return;
    }
    // Number 0 names the last slot where 2^32 is a multiple of the slots, as ESP-IDF counts; it is
    // never asked for, because no number below 1 is ever written.
    assert!(current == Some(0) || slot_of(seq, slots) == slot);
    assert!(current.is_none_or(|current| seq >= current && seq - current < u32::from(slots)));
    let target = usize::from(found == Some(0));
    let mut after = entries;
    after[target] = Entry::new(seq, State::New);
    let switched = active(&after).expect("a usable entry was written");
    let already = current.is_some_and(|current| current == seq);
    assert!(already || switched == target);
}
