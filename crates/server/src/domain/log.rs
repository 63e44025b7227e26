//! The release log in memory, with every head that it ever had.

use fota_proto::{
    Sha256,
    log::{EMPTY_ROOT, Frontier, Inclusion, LogHead, Path, leaf_hash, node_hash},
};

/// The Merkle tree over the log's entries. An entry costs 64 bytes.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    frontier: Frontier,
    entries: Vec<Sha256>,
    /// The root after each entry, so that any earlier head is found at once.
    roots: Vec<Sha256>,
}

impl Tree {
    /// Appends an entry.
    pub fn push(&mut self, entry: Sha256) {
        self.frontier.push(entry);
        self.entries.push(entry);
        self.roots.push(self.frontier.head().root);
    }

    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The head now.
    pub fn head(&self) -> LogHead {
        self.frontier.head()
    }

    /// The head that the log had at this size; none where it was never so long.
    pub fn head_at(&self, size: u64) -> Option<LogHead> {
        let root = match size.checked_sub(1) {
            None => EMPTY_ROOT,
            Some(last) => *self.roots.get(usize::try_from(last).ok()?)?,
        };
        Some(LogHead { size, root })
    }

    /// Whether this log had that head.
    pub fn had(&self, head: LogHead) -> bool {
        self.head_at(head.size) == Some(head)
    }

    /// The proof that the log of this size holds `entry`; none where it does not.
    pub fn inclusion(&self, entry: Sha256, size: u64) -> Option<Inclusion> {
        let entries = self.entries.get(..usize::try_from(size).ok()?)?;
        let index = entries.iter().position(|known| *known == entry)?;
        let mut path = Path::new();
        climb(index, entries, &mut path)?;
        let index = index as u64;
        Some(Inclusion { index, path })
    }

    /// The proof that the log of size `to` continues that of size `from`; none where it was never
    /// so long.
    pub fn consistency(&self, from: u64, to: u64) -> Option<Path> {
        let entries = self.entries.get(..usize::try_from(to).ok()?)?;
        let from = usize::try_from(from)
            .ok()
            .filter(|from| *from <= entries.len())?;
        let mut path = Path::new();
        if from > 0 {
            continue_from(from, entries, true, &mut path)?;
        }
        Some(path)
    }
}

/// PATH of RFC 9162 section 2.1.3.1; none where it is longer than the protocol allows.
fn climb(index: usize, entries: &[Sha256], path: &mut Path) -> Option<()> {
    if entries.len() == 1 {
        return Some(());
    }
    let (left, right) = halves(entries);
    let beside = match index.checked_sub(left.len()) {
        None => {
            climb(index, left, path)?;
            right
        }
        Some(index) => {
            climb(index, right, path)?;
            left
        }
    };
    path.push(root(beside)).ok()
}

/// SUBPROOF of RFC 9162 section 2.1.4.1.
fn continue_from(size: usize, entries: &[Sha256], is_whole: bool, path: &mut Path) -> Option<()> {
    if size == entries.len() {
        return if is_whole {
            Some(())
        } else {
            path.push(root(entries)).ok()
        };
    }
    let (left, right) = halves(entries);
    let beside = if size <= left.len() {
        continue_from(size, left, is_whole, path)?;
        right
    } else {
        continue_from(size - left.len(), right, false, path)?;
        left
    };
    path.push(root(beside)).ok()
}

/// Of at least two entries: the largest power of two below their number, and the rest.
fn halves(entries: &[Sha256]) -> (&[Sha256], &[Sha256]) {
    entries.split_at(entries.len().next_power_of_two() / 2)
}

/// Recursion ends after one level for each bit of the number of entries.
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

#[cfg(test)]
mod tests {
    use super::*;
    use fota_proto::log::{verify_consistency, verify_inclusion};

    fn tree(size: u8) -> Tree {
        let mut tree = Tree::default();
        (0..size).for_each(|i| tree.push(Sha256([i; 32])));
        tree
    }

    #[test]
    fn every_proof_verifies_at_every_size() {
        let tree = tree(70);
        for size in 0..=70 {
            let head = tree.head_at(size).expect("so long");
            for index in 0..size {
                let entry = Sha256([index as u8; 32]);
                let proof = tree.inclusion(entry, size).expect("held");
                assert_eq!(proof.index, index);
                assert!(verify_inclusion(entry, &proof, head), "{index} of {size}");
            }
            for from in 0..=size {
                let old = tree.head_at(from).expect("so long");
                let proof = tree.consistency(from, size).expect("so long");
                assert!(verify_consistency(old, head, &proof), "{from} to {size}");
            }
        }
    }

    #[test]
    fn what_was_never_is_not_proven() {
        let tree = tree(5);
        assert_eq!(tree.head_at(6), None);
        assert_eq!(tree.inclusion(Sha256([9; 32]), 5), None);
        assert_eq!(tree.inclusion(Sha256([4; 32]), 4), None, "came later");
        assert_eq!(tree.inclusion(Sha256([4; 32]), u64::MAX), None);
        assert_eq!(tree.consistency(4, 3), None);
        assert_eq!(tree.consistency(0, 6), None);
        let forged = LogHead {
            size: 3,
            root: EMPTY_ROOT,
        };
        assert!(!tree.had(forged));
    }
}
