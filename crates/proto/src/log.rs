//! The release log: every release that a server takes, in a Merkle tree that only grows (RFC 9162
//! section 2.1). A device or an operator that has seen one head can prove that a later one only
//! added to it, so a server cannot show one release to one device and deny it to another.
//!
//! An entry is the SHA-256 of the signed release's envelope; of the image where the release is
//! not signed. Its leaf hash covers those 32 bytes.

use minicbor::{Decode, Encode};
use sha2::Digest;

pub use crate::checkin::LogHead;
use crate::{Sha256, limits::LOG_PROOF_HASHES_MAX, list::List};

/// The hashes beside the way from a leaf, or an earlier head, to the head.
pub type Path = List<Sha256, LOG_PROOF_HASHES_MAX>;

/// The root hash of a log without entries: the SHA-256 of nothing.
pub const EMPTY_ROOT: Sha256 = Sha256([
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
]);

/// Where an entry stands in the log, and the proof.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Inclusion {
    /// Its number, from 0.
    #[n(0)]
    pub index: u64,
    /// From the leaf upwards.
    #[n(1)]
    pub path: Path,
}

/// The hash of an entry as a leaf.
pub fn leaf_hash(entry: Sha256) -> Sha256 {
    let mut hasher = sha2::Sha256::new_with_prefix([0]);
    hasher.update(entry.0);
    Sha256(hasher.finalize().into())
}

/// The hash of a node over its two halves.
pub fn node_hash(left: Sha256, right: Sha256) -> Sha256 {
    let mut hasher = sha2::Sha256::new_with_prefix([1]);
    hasher.update(left.0);
    hasher.update(right.0);
    Sha256(hasher.finalize().into())
}

/// Whether the log with this head holds `entry` at `inclusion.index` (RFC 9162 section 2.1.3.2).
pub fn verify_inclusion(entry: Sha256, inclusion: &Inclusion, head: LogHead) -> bool {
    if inclusion.index >= head.size {
        return false;
    }
    let (mut node, mut last) = (inclusion.index, head.size - 1);
    let mut root = leaf_hash(entry);
    for beside in inclusion.path.iter() {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            root = node_hash(*beside, root);
            skip_lone(&mut node, &mut last);
        } else {
            root = node_hash(root, *beside);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    last == 0 && root == head.root
}

/// Whether `new` is `old` with entries added (RFC 9162 section 2.1.4.2). Every log grows out of
/// the empty one.
pub fn verify_consistency(old: LogHead, new: LogHead, path: &[Sha256]) -> bool {
    if old.size == 0 {
        return path.is_empty() && old.root == EMPTY_ROOT;
    }
    if old.size >= new.size {
        return path.is_empty() && old == new;
    }
    let (mut node, mut last) = (old.size - 1, new.size - 1);
    while node & 1 == 1 {
        (node, last) = (node >> 1, last >> 1);
    }
    // A whole subtree is its own proof; otherwise the proof begins with a part of it.
    let (seed, rest) = match (old.size.is_power_of_two(), path.split_first()) {
        (true, _) => (old.root, path),
        (false, Some((first, rest))) => (*first, rest),
        (false, None) => return false,
    };
    let (mut old_root, mut new_root) = (seed, seed);
    for beside in rest {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old_root = node_hash(*beside, old_root);
            new_root = node_hash(*beside, new_root);
            skip_lone(&mut node, &mut last);
        } else {
            new_root = node_hash(new_root, *beside);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    last == 0 && old_root == old.root && new_root == new.root
}

/// A right-most node without a sibling is carried up unchanged to where it has one.
fn skip_lone(node: &mut u64, last: &mut u64) {
    while *node & 1 == 0 && *node != 0 {
        *node >>= 1;
        *last >>= 1;
    }
}

/// The head of a log that grows, in the memory of its peaks: the roots of the whole subtrees that
/// it is made of, one for each bit of its size.
#[derive(Clone, Debug)]
pub struct Frontier {
    size: u64,
    peaks: [Sha256; u64::BITS as usize],
}

impl Default for Frontier {
    fn default() -> Self {
        Self {
            size: 0,
            peaks: [EMPTY_ROOT; u64::BITS as usize],
        }
    }
}

impl Frontier {
    /// Adds an entry; it hashes once for each peak that becomes part of a larger one.
    pub fn push(&mut self, entry: Sha256) {
        let mut peak = leaf_hash(entry);
        // As many as the carries of the addition below.
        let merged = self.size.trailing_ones() as usize;
        for left in &self.peaks[..merged] {
            peak = node_hash(*left, peak);
        }
        self.peaks[merged] = peak;
        self.size += 1;
    }

    /// The head.
    pub fn head(&self) -> LogHead {
        let bits = (0..u64::BITS as usize).filter(|bit| self.size >> bit & 1 == 1);
        let peaks = bits.map(|bit| self.peaks[bit]);
        let root = peaks.reduce(|right, left| node_hash(left, right));
        LogHead {
            size: self.size,
            root: root.unwrap_or(EMPTY_ROOT),
        }
    }
}
