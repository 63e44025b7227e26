//! The release log against the definitions of RFC 9162 written down naively.

use fota_proto::{
    Sha256,
    limits::OBJECT_BYTES_MAX,
    log::{
        EMPTY_ROOT, Frontier, Inclusion, LogHead, Path, leaf_hash, node_hash, verify_consistency,
        verify_inclusion,
    },
};
use proptest::prelude::*;

/// Sizes tried one by one: past the powers of two where the shape changes.
const SIZE_MAX: usize = 70;

fn entries(size: usize) -> Vec<Sha256> {
    (0..size).map(|i| Sha256([i as u8 ^ 0x5A; 32])).collect()
}

/// MTH of section 2.1.1.
fn root(entries: &[Sha256]) -> Sha256 {
    match entries {
        [] => EMPTY_ROOT,
        [one] => leaf_hash(*one),
        _ => {
            let (left, right) = halves(entries);
            node_hash(root(left), root(right))
        }
    }
}

fn halves(entries: &[Sha256]) -> (&[Sha256], &[Sha256]) {
    entries.split_at(entries.len().next_power_of_two() / 2)
}

/// PATH of section 2.1.3.1.
fn path(index: usize, entries: &[Sha256]) -> Vec<Sha256> {
    if entries.len() <= 1 {
        return Vec::new();
    }
    let (left, right) = halves(entries);
    let (mut path, beside) = match index.checked_sub(left.len()) {
        None => (path(index, left), root(right)),
        Some(index) => (path(index, right), root(left)),
    };
    path.push(beside);
    path
}

/// SUBPROOF of section 2.1.4.1.
fn proof(size: usize, entries: &[Sha256], is_whole: bool) -> Vec<Sha256> {
    if size == entries.len() {
        return if is_whole {
            Vec::new()
        } else {
            vec![root(entries)]
        };
    }
    let (left, right) = halves(entries);
    let (mut proof, beside) = match size.checked_sub(left.len()) {
        None | Some(0) => (proof(size, left, is_whole), root(right)),
        Some(rest) => (proof(rest, right, false), root(left)),
    };
    proof.push(beside);
    proof
}

fn head(entries: &[Sha256]) -> LogHead {
    LogHead {
        size: entries.len() as u64,
        root: root(entries),
    }
}

fn inclusion(index: usize, entries: &[Sha256]) -> Inclusion {
    let mut list = Path::new();
    for hash in path(index, entries) {
        list.push(hash).expect("fits");
    }
    let index = index as u64;
    Inclusion { index, path: list }
}

#[test]
fn the_head_of_a_growing_log_is_that_of_the_definition() {
    let all = entries(SIZE_MAX);
    let mut frontier = Frontier::default();
    for size in 0..=SIZE_MAX {
        assert_eq!(frontier.head(), head(&all[..size]), "size {size}");
        frontier.push(Sha256([size as u8 ^ 0x5A; 32]));
    }
}

#[test]
fn every_entry_of_every_size_is_proven_and_nothing_else() {
    let all = entries(SIZE_MAX);
    for size in 1..=SIZE_MAX {
        let (entries, head) = (&all[..size], head(&all[..size]));
        for index in 0..size {
            let good = inclusion(index, entries);
            assert!(
                verify_inclusion(entries[index], &good, head),
                "{index}/{size}"
            );
            assert!(!verify_inclusion(Sha256([0xEE; 32]), &good, head));
            let moved = Inclusion {
                index: (index + 1) as u64,
                ..good.clone()
            };
            assert!(!verify_inclusion(entries[index], &moved, head));
            let mut longer = good.clone();
            longer.path.push(head.root).expect("fits");
            assert!(!verify_inclusion(entries[index], &longer, head));
            let later = LogHead {
                size: head.size + 1,
                ..head
            };
            // The shape may allow it; then only the root can differ, and it does not fit both.
            let other = LogHead {
                root: Sha256([1; 32]),
                ..later
            };
            assert!(!verify_inclusion(entries[index], &good, other));
        }
    }
}

#[test]
fn every_earlier_size_is_consistent_and_no_other_log() {
    let all = entries(SIZE_MAX);
    for new in 0..=SIZE_MAX {
        for old in 0..=new {
            let good = match old {
                0 => Vec::new(),
                _ => proof(old, &all[..new], true),
            };
            let (old, new) = (head(&all[..old]), head(&all[..new]));
            assert!(verify_consistency(old, new, &good), "{old:?} {new:?}");
            let forked = |head| LogHead {
                root: Sha256([1; 32]),
                ..head
            };
            assert!(!verify_consistency(forked(old), new, &good));
            if old.size > 0 {
                assert!(!verify_consistency(old, forked(new), &good));
            }
            let longer = [&good[..], &[old.root]].concat();
            assert!(!verify_consistency(old, new, &longer));
            if let Some((_, shorter)) = good.split_last() {
                assert!(!verify_consistency(old, new, shorter));
            }
            if old.size < new.size && old.size > 0 {
                assert!(!verify_consistency(new, old, &good), "it only grows");
            }
        }
    }
}

#[test]
fn the_longest_proof_fits_an_object() {
    let mut path = Path::new();
    while path.push(EMPTY_ROOT).is_ok() {}
    let longest = Inclusion {
        index: u64::MAX,
        path,
    };
    let mut buffer = [0; OBJECT_BYTES_MAX];
    assert!(fota_proto::checkin::encode(&longest, &mut buffer).is_some());
}

proptest! {
    /// A log that differs in any entry before the old head is never taken for a continuation.
    #[test]
    fn a_changed_entry_is_found(size in 2usize..200, old in 1usize..200, changed in 0usize..200) {
        let old = 1 + old % (size - 1);
        let honest = entries(size);
        let mut forked = honest.clone();
        forked[changed % old] = Sha256([0xEE; 32]);
        let path = proof(old, &forked, true);
        prop_assert!(!verify_consistency(head(&honest[..old]), head(&forked), &path));
        prop_assert!(verify_consistency(head(&forked[..old]), head(&forked), &path));
    }

    #[test]
    fn no_hashes_panic(index: u64, size: u64, hashes in proptest::collection::vec(any::<[u8; 32]>(), 0..28)) {
        let hashes: Vec<Sha256> = hashes.into_iter().map(Sha256).collect();
        let mut path = Path::new();
        hashes.iter().for_each(|hash| path.push(*hash).expect("fits"));
        let head = LogHead { size, root: EMPTY_ROOT };
        let proof = Inclusion { index, path };
        prop_assert!(!verify_inclusion(EMPTY_ROOT, &proof, head));
        let old = LogHead { size: index.max(1), root: Sha256([9; 32]) };
        prop_assert!(!verify_consistency(old, head, &hashes));
    }
}
